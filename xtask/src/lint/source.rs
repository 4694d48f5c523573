// SPDX-License-Identifier: Apache-2.0

//! A Rust file, taken apart into code and comments.
//!
//! A lexer just good enough to tell code from comments and literals; it knows nothing of syntax
//! beyond that. Invariant: both halves have the lines of the file, so positions stay true.

/// The two halves of a file; what belongs to the other half, or to a literal, is blank.
pub(super) struct Source {
    /// Code without comments and without the insides of literals.
    pub(super) code: String,
    /// Comments only, documentation included.
    pub(super) comments: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

impl Source {
    /// Takes `text` apart.
    pub(super) fn new(text: &str) -> Self {
        let characters: Vec<char> = text.chars().collect();
        let mut source = Self {
            code: String::new(),
            comments: String::new(),
        };
        let mut at = 0;
        while at < characters.len() {
            let (kind, end) = token(&characters, at);
            for &character in &characters[at..end] {
                source.push(kind, character);
            }
            at = end;
        }
        source
    }

    fn push(&mut self, kind: Kind, character: char) {
        let blank = if character == '\n' { '\n' } else { ' ' };
        self.code
            .push(if kind == Kind::Code { character } else { blank });
        self.comments.push(if kind == Kind::Comment {
            character
        } else {
            blank
        });
    }

    /// The code before the unit tests, which may name what they like.
    pub(super) fn production(&self) -> &str {
        let tests = self.code.match_indices("#[cfg(test)]").find(|(at, mark)| {
            let rest = self.code[at + mark.len()..].trim_start();
            rest.starts_with("mod ") && rest.find('{') < rest.find(';').or(Some(usize::MAX))
                || rest.starts_with("mod tests;")
        });
        tests.map_or(&self.code, |(at, _)| &self.code[..at])
    }
}

/// The kind of what begins at `at`, and where it ends.
fn token(text: &[char], at: usize) -> (Kind, usize) {
    let next = text.get(at + 1).copied();
    match text[at] {
        '/' if next == Some('/') => (Kind::Comment, line_end(text, at)),
        '/' if next == Some('*') => (Kind::Comment, comment_end(text, at)),
        '"' => (Kind::Literal, string_end(text, at + 1)),
        '\'' => quote(text, at),
        // A word is taken whole, so that the `r` of `for"` does not begin a raw string.
        first if is_word(first) => word(text, at),
        _ => (Kind::Code, at + 1),
    }
}

fn word(text: &[char], at: usize) -> (Kind, usize) {
    let end = skip(text, at, is_word);
    let word: String = text[at..end].iter().collect();
    let hashes = skip(text, end, |character| character == '#');
    if matches!(word.as_str(), "r" | "br" | "cr") && text.get(hashes) == Some(&'"') {
        return (Kind::Literal, raw_end(text, hashes + 1, hashes - end));
    }
    (Kind::Code, end)
}

/// A character or a lifetime.
fn quote(text: &[char], at: usize) -> (Kind, usize) {
    match (text.get(at + 1), text.get(at + 2)) {
        (Some('\\'), _) => {
            let close = skip(text, at + 3, |character| character != '\'');
            (Kind::Literal, (close + 1).min(text.len()))
        }
        (Some(_), Some('\'')) => (Kind::Literal, at + 3),
        _ => (Kind::Code, at + 1),
    }
}

fn line_end(text: &[char], at: usize) -> usize {
    skip(text, at, |character| character != '\n')
}

fn comment_end(text: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut here = at;
    while here < text.len() {
        match (text[here], text.get(here + 1)) {
            ('/', Some('*')) => (depth, here) = (depth + 1, here + 2),
            ('*', Some('/')) => (depth, here) = (depth - 1, here + 2),
            _ => here += 1,
        }
        if depth == 0 {
            break;
        }
    }
    here.min(text.len())
}

fn string_end(text: &[char], at: usize) -> usize {
    let mut here = at;
    while here < text.len() && text[here] != '"' {
        here += if text[here] == '\\' { 2 } else { 1 };
    }
    (here + 1).min(text.len())
}

fn raw_end(text: &[char], at: usize, hashes: usize) -> usize {
    let mut here = at;
    while here < text.len() {
        let closed = here + 1 + hashes;
        let hash = |&character: &char| character == '#';
        if text[here] == '"' && closed <= text.len() && text[here + 1..closed].iter().all(hash) {
            return closed;
        }
        here += 1;
    }
    text.len()
}

fn skip(text: &[char], at: usize, wanted: impl Fn(char) -> bool) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at.min(text.len())
        + rest
            .iter()
            .take_while(|&&character| wanted(character))
            .count()
}

/// Whether `character` may be part of an identifier.
pub(super) fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, code: &str, comments: &str) {
        let source = Source::new(text);
        let squeeze = |half: &str| half.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&source.code), code, "code of {text:?}");
        assert_eq!(squeeze(&source.comments), comments, "comments of {text:?}");
    }

    #[test]
    fn comments_are_no_code() {
        check("use a; // crate::b\nuse c;", "use a; use c;", "// crate::b");
        check("a /* b /* c */ d */ e", "a e", "/* b /* c */ d */");
    }

    #[test]
    fn literals_are_neither() {
        check(r#"f("aya::x \" // y", z)"#, "f( , z)", "");
        check("f(r#\"kube:: \" // \"#, z)", "f( , z)", "");
        check(r"f('\'', '/', b'\\')", "f( , , b )", "");
    }

    #[test]
    fn a_lifetime_opens_no_literal() {
        check(
            "fn f<'a>(x: &'a str) // why",
            "fn f<'a>(x: &'a str)",
            "// why",
        );
    }

    #[test]
    fn lines_stay_where_they_are() {
        let source = Source::new("a\n/* b\nc */\n\"d\ne\"\nf\n");
        assert_eq!(source.code.lines().count(), 6);
        assert_eq!(source.code.lines().position(|line| line == "f"), Some(5));
    }

    #[test]
    fn production_ends_where_the_tests_begin() {
        let source = Source::new("use a;\n#[cfg(test)]\nmod tests { use b; }");
        assert_eq!(source.production().trim(), "use a;");
        let source = Source::new("#[cfg(test)]\nuse a;\nuse b;");
        assert!(source.production().contains("use b;"));
    }
}
