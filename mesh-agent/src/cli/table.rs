// SPDX-License-Identifier: Apache-2.0

//! Columns of text, as wide as their widest cell plus a padding: the layout of istioctl's tables.
//!
//! Invariant: the last column is not padded, so that no line ends in spaces.

/// Lays `rows` out under `headers`, `padding` spaces between columns.
pub(super) fn table(headers: &[&str], rows: &[Vec<String>], padding: usize) -> String {
    let mut widths: Vec<usize> = headers.iter().map(|text| text.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    line(&mut text, headers.iter().copied(), &widths, padding);
    for row in rows {
        line(&mut text, row.iter().map(String::as_str), &widths, padding);
    }
    text
}

fn line<'a>(
    text: &mut String,
    cells: impl Iterator<Item = &'a str>,
    widths: &[usize],
    padding: usize,
) {
    let mut blank = 0;
    for (cell, width) in cells.zip(widths) {
        if !cell.is_empty() {
            text.extend(std::iter::repeat_n(' ', blank));
            text.push_str(cell);
            blank = 0;
        }
        blank += width + padding - cell.chars().count();
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            [["a", "bbbbbb", "c"], ["aaaaaa", "", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            table(&["X", "Y", "Z"], &rows, 2),
            "X       Y       Z\na       bbbbbb  c\naaaaaa\n"
        );
    }
}
