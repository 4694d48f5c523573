// SPDX-License-Identifier: Apache-2.0

//! The ratios to two Envoys as a picture: one bar each, to the right where we are better.
//!
//! Written by hand, with colours that can be seen on light and dark pages. Knows nothing of how
//! ratios were made. Invariant: a bar shows how many times better, so that more requests and less
//! memory point the same way; the scale is logarithmic, and bars begin at a factor of 1.

use super::ratios::{Better, Ratio};

/// What is shown, and what it is called; a selection that fits a page.
const SHOWN: &[(&str, &str)] = &[
    ("h1_c16_rps", "HTTP/1.1 requests/s, 16 connections"),
    ("h1_c64_rps", "HTTP/1.1 requests/s, 64 connections"),
    ("h1_c16_cpu", "HTTP/1.1 CPU per request"),
    ("h2_c16_rps", "HTTP/2 requests/s"),
    ("grpc_c16_rps", "gRPC calls/s"),
    ("fixed_1000_added_p50", "added latency, median"),
    ("fixed_1000_added_p99", "added latency, p99"),
    ("newconn_rps", "new connections/s"),
    ("bulk_gbps", "bulk TCP Gbit/s"),
    ("bulk_cpu", "bulk TCP CPU per byte"),
    ("rss_idle", "memory, idle"),
    ("rss_5000_idle", "memory, 5,000 connections"),
    ("same_node_h1_c16_rps", "one node: HTTP/1.1 requests/s"),
    ("same_node_added_p50", "one node: added latency, median"),
];

const WIDTH: f64 = 780.0;
const LEFT: f64 = 270.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 56.0;
const LINE: f64 = 26.0;
const BAR: f64 = 16.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#57606a}\
.title{font-size:15px;font-weight:600}.bar{fill:#2f81f7}.worse{fill:#d29922}\
.grid{stroke:#8b949e;stroke-opacity:.35}.value{font-weight:600}\
@media (prefers-color-scheme:dark){text{fill:#adbac7}}";

/// One bar.
struct Bar {
    label: &'static str,
    /// How many times better; below 1 it is worse.
    factor: f64,
}

/// The picture, whole.
pub(super) fn svg(ratios: &[Ratio]) -> String {
    let bars: Vec<Bar> = SHOWN
        .iter()
        .filter_map(|shown| bar(ratios, shown))
        .collect();
    let scale = Scale::over(&bars);
    let rows = bars.iter().fold(0.0, |rows, _| rows + 1.0);
    let height = TOP + rows * LINE + 16.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"mesh-agent compared with two Envoy sidecars\">\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"12\" y=\"22\">mesh-agent against two Envoy sidecars: how many \
         times better</text>\n"
    );
    text.push_str(&grid(&scale, height));
    let mut top = TOP;
    for bar in &bars {
        text.push_str(&bar.draw(top, &scale));
        top += LINE;
    }
    text.push_str("</svg>\n");
    text
}

fn bar(ratios: &[Ratio], (key, label): &(&'static str, &'static str)) -> Option<Bar> {
    let ratio = ratios.iter().find(|ratio| ratio.key == *key)?;
    if ratio.value <= 0.0 {
        return None;
    }
    let factor = match ratio.better {
        Better::Higher => ratio.value,
        Better::Lower => ratio.value.recip(),
    };
    Some(Bar { label, factor })
}

/// The factors from the left end to the right one.
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    /// Wide enough for all bars, and for 1 to 2.
    fn over(bars: &[Bar]) -> Self {
        let factors = || bars.iter().map(|bar| bar.factor);
        Self {
            least: factors().fold(1.0, f64::min),
            most: factors().fold(2.0, f64::max),
        }
    }

    /// Where a factor is.
    fn place(&self, factor: f64) -> f64 {
        let share = (factor / self.least).ln() / (self.most / self.least).ln();
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }
}

fn grid(scale: &Scale, height: f64) -> String {
    let marks = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
    let inside = |mark: &f64| *mark >= scale.least && *mark <= scale.most;
    let mut text = String::new();
    for mark in marks.into_iter().filter(inside) {
        let x = scale.place(mark);
        text.push_str(&format!(
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.0}\" y2=\"{:.0}\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{mark}x</text>\n",
            TOP - 6.0,
            height - 12.0,
            TOP - 12.0,
        ));
    }
    text
}

impl Bar {
    fn draw(&self, top: f64, scale: &Scale) -> String {
        let (one, end) = (scale.place(1.0), scale.place(self.factor));
        let (left, length) = (one.min(end), (end - one).abs().max(1.0));
        let class = if self.factor < 1.0 {
            "bar worse"
        } else {
            "bar"
        };
        let baseline = top + 13.0;
        format!(
            "<text x=\"{:.0}\" y=\"{baseline:.0}\" text-anchor=\"end\">{}</text>\n\
             <rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.0}\" width=\"{length:.1}\" \
             height=\"{BAR}\" rx=\"2\"/>\n\
             <text class=\"value\" x=\"{:.1}\" y=\"{baseline:.0}\">{:.1}x</text>\n",
            LEFT - 8.0,
            self.label,
            one.max(end) + 6.0,
            self.factor,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(key: &'static str, value: f64, better: Better) -> Ratio {
        Ratio { key, value, better }
    }

    #[test]
    fn less_memory_and_more_requests_point_the_same_way() {
        let picture = svg(&[
            ratio("h1_c16_rps", 5.0, Better::Higher),
            ratio("rss_idle", 0.2, Better::Lower),
        ]);
        assert_eq!(picture.matches(">5.0x</text>").count(), 2, "{picture}");
        assert!(picture.ends_with("</svg>\n"));
    }

    #[test]
    fn what_is_worse_has_another_colour() {
        let picture = svg(&[ratio("bulk_gbps", 0.8, Better::Higher)]);
        assert!(picture.contains("class=\"bar worse\""), "{picture}");
        assert!(picture.contains(">0.8x</text>"), "{picture}");
    }

    #[test]
    fn nothing_measured_is_an_empty_picture() {
        assert!(!svg(&[]).contains("<rect"));
    }
}
