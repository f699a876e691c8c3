//! Lines for a terminal: coloured spans, cut or wrapped by what they measure on the screen.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::sinks::visible;

/// What a span means; colours follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Strong,
    Faint,
    Good,
    Warn,
    Bad,
}

impl Style {
    /// The parameters of the SGR escape sequence: only colours that every palette has.
    fn sgr(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Strong => "1",
            Style::Faint => "2",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "1;31",
        }
    }
}

/// One line of output.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    spans: Vec<(Style, String)>,
}

impl Line {
    pub(super) fn new() -> Line {
        Line::default()
    }

    /// Adds text that may come from outside: it is made visible. Only our own text has the arrow
    /// that marks what to change, so a name cannot pass for advice.
    pub(super) fn add(self, style: Style, text: &str) -> Line {
        self.own(style, &foreign(text))
    }

    /// Adds exactly `width` columns of such text.
    pub(super) fn cell(self, style: Style, text: &str, width: usize) -> Line {
        self.own(style, &fit(&foreign(text), width))
    }

    /// Adds our own words as they are.
    pub(super) fn own(mut self, style: Style, text: &str) -> Line {
        self.spans.push((style, text.to_owned()));
        self
    }

    pub(super) fn plain(self, text: &str) -> Line {
        self.add(Style::Plain, text)
    }

    /// The line with its end; cut to `width` columns where there is one.
    pub(super) fn render(&self, width: Option<usize>, colour: bool) -> String {
        let mut left = width.unwrap_or(usize::MAX);
        let mut out = String::new();
        for (style, text) in &self.spans {
            let text = head(text, left);
            left -= text.width();
            match colour && *style != Style::Plain && !text.is_empty() {
                true => out += &format!("\x1b[{}m{text}\x1b[0m", style.sgr()),
                false => out += text,
            }
        }
        let end = match colour {
            true => out.len(),
            false => out.trim_end().len(),
        };
        out.truncate(end);
        out.push('\n');
        out
    }
}

fn foreign(text: &str) -> String {
    visible(text).replace('→', "->")
}

/// As much of the beginning as fits.
fn head(text: &str, width: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > width {
            return &text[..at];
        }
    }
    text
}

/// Exactly `width` columns: padded, or the end of the text after an ellipsis. The end of a path or
/// an address says more than its beginning.
fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return pad(text, width);
    }
    let mut start = text.len();
    let mut used = 1;
    for (at, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        start = at;
    }
    pad(&format!("…{}", &text[start..]), width)
}

fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

/// What belongs to the number before it.
const UNITS: &[&str] = &["s", "ms", "µs", "min", "bytes", "byte", "%"];

/// The text's words in lines of at most `width` columns; a longer word stays whole, to be copied.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let unit = UNITS.contains(&word.trim_end_matches(['.', ',', ';', ':', ')']));
        match words.last_mut() {
            Some(number) if unit && number.ends_with(|c: char| c.is_ascii_digit()) => {
                number.push(' ');
                number.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
    }
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if foreign(line).width() + 1 + foreign(&word).width() <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

/// A span of time as a person reads it: three digits and a unit.
pub(super) fn span(micros: f64) -> String {
    let (value, unit) = match micros.abs() {
        us if us < 1e3 => (micros, "µs"),
        us if us < 1e6 => (micros / 1e3, "ms"),
        us if us < 120e6 => (micros / 1e6, "s"),
        _ => (micros / 60e6, "min"),
    };
    let decimals = match value.abs() {
        _ if unit == "µs" => 0,
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_keeps_its_end() {
        assert_eq!(fit("unix:/run/x.sock", 20), "unix:/run/x.sock    ");
        assert_eq!(fit("unix:/run/gunicorn/x.sock", 10), "…rn/x.sock");
        assert_eq!(fit("日本語日本語", 6).width(), 6);
    }

    #[test]
    fn text_wraps_at_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(
            wrap("a /very/long/path b", 5),
            ["a", "/very/long/path", "b"]
        );
        assert_eq!(wrap("after 998 ms.", 9), ["after", "998 ms."]);
        assert!(wrap("", 5).is_empty());
    }

    #[test]
    fn spans_have_three_digits() {
        for (micros, expected) in [
            (-3.0, "-3 µs"),
            (968_123.0, "968 ms"),
            (-31_210.0, "-31.2 ms"),
            (1_500.0, "1.50 ms"),
            (60e6, "60.0 s"),
            (600e6, "10.0 min"),
        ] {
            assert_eq!(span(micros), expected);
        }
    }

    #[test]
    fn a_line_is_cut_without_breaking_its_colours() {
        let line = Line::new().add(Style::Bad, "abc").plain("defg");
        assert_eq!(line.render(Some(5), false), "abcde\n");
        assert_eq!(line.render(Some(2), true), "\x1b[1;31mab\x1b[0m\n");
        assert_eq!(
            Line::new().plain("a\x1b[2J\n").render(None, false),
            "a\\x1b[2J\\n\n"
        );
    }
}
