//! Data inside the page: JSON that can neither end its element nor hide anything from the reader.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};

use crate::sinks::visible;

/// JSON for a `<script type="application/json">`. What cannot be seen is written out, as on a
/// terminal: the text that the page shows is the text as `visible` gives it.
struct InScript;

impl Formatter for InScript {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        write_shown(writer, fragment)
    }

    fn write_char_escape<W>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        let byte = match escape {
            CharEscape::Quote => return writer.write_all(b"\\\""),
            CharEscape::Solidus => b'/',
            CharEscape::ReverseSolidus => b'\\',
            CharEscape::Backspace => 0x08,
            CharEscape::FormFeed => 0x0c,
            CharEscape::LineFeed => b'\n',
            CharEscape::CarriageReturn => b'\r',
            CharEscape::Tab => b'\t',
            CharEscape::AsciiControl(byte) => byte,
        };
        write_shown(writer, char::from(byte).encode_utf8(&mut [0; 4]))
    }
}

fn write_shown<W: ?Sized + Write>(writer: &mut W, text: &str) -> io::Result<()> {
    let shown = visible(text);
    let mut rest = shown.as_str();
    while let Some(at) = rest.find(['\\', '<', '>', '&']) {
        writer.write_all(&rest.as_bytes()[..at])?;
        match rest.as_bytes()[at] {
            b'\\' => writer.write_all(b"\\\\")?,
            byte => write!(writer, "\\u{byte:04x}")?,
        }
        rest = &rest[at + 1..];
    }
    writer.write_all(rest.as_bytes())
}

pub(super) fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(2048);
    value.serialize(&mut Serializer::with_formatter(&mut out, InScript))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(text: &str) -> String {
        let json = json(&text).unwrap();
        for byte in [b'<', b'>', b'&', b'\n', 0x1b] {
            assert!(!json.contains(&byte), "{text:?}");
        }
        serde_json::from_slice(&json).unwrap()
    }

    #[test]
    fn nothing_ends_the_script_and_nothing_is_hidden() {
        for (text, shown) in [
            ("/orders/é?", "/orders/é?"),
            (
                "</script><script>alert(1)</script>",
                "</script><script>alert(1)</script>",
            ),
            ("<!--<script>", "<!--<script>"),
            ("a&amp;\"b'", "a&amp;\"b'"),
            (
                "a\n\r\t\u{8}\u{c}\u{0}\u{1b}[1A",
                "a\\n\\r\\t\\x08\\x0c\\x00\\x1b[1A",
            ),
            ("\u{202e}txt\u{2028}", "\\u{202e}txt\\u{2028}"),
            ("C:\\n", "C:\\\\n"),
        ] {
            assert_eq!(round(text), shown);
        }
    }
}
