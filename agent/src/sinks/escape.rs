//! Text from users' traffic, made safe to show: nothing in it can end a line, move a cursor, change
//! a colour or reverse the order of what stands beside it.

use std::fmt::Write;
use std::io;

/// The text with everything that is not plainly visible written as `\n`, `\x1b` or `\u{202e}`.
///
/// A backslash is doubled, so an escape that was in the text cannot be taken for one of ours.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if !is_hidden(c) => out.push(c),
            c if u32::from(c) < 0x80 => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
        }
    }
    out
}

/// Control, format and separator characters: what changes the display without being seen.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Compact JSON in which hidden characters are written as escapes of four hexadecimal digits: the same data, safe on a terminal.
struct VisibleJson;

impl serde_json::ser::Formatter for VisibleJson {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        // Nearly all text is this, and needs no look at each character.
        if fragment.bytes().all(|b| matches!(b, b' '..=b'~')) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// One object as one line.
pub(super) fn json_line(value: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(2048);
    value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut line,
        VisibleJson,
    ))?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_shown_and_cannot_be_imitated() {
        assert_eq!(visible("/orders/é"), "/orders/é");
        assert_eq!(visible("a\nb\x1b[2Jc"), "a\\nb\\x1b[2Jc");
        assert_eq!(visible("\u{202e}\u{9b}\u{7f}"), "\\u{202e}\\u{9b}\\x7f");
        assert_eq!(visible("a\\nb"), "a\\\\nb");
    }

    #[test]
    fn json_lines_stay_one_line_and_the_same_data() {
        let text = "a\nb\u{9b}31m\u{202e}\u{2028}\u{e0041}\\\"é";
        let line = json_line(&text).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert!(!line.trim_end().chars().any(is_hidden), "{line}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
