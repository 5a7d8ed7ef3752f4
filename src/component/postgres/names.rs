//! Names of tables as the manifest has them, whatever the encoding of the database.

use std::fmt::Write as _;

/// A name from its bytes in the database's own encoding (`pg_encoding_to_char`).
///
/// UTF-8 and LATIN1 names come out as they are, ASCII names in every encoding. Other bytes become
/// `\xE9`: the dump keeps the database's encoding (converting could fail on data), so the same
/// bytes are seen at the source and in the archive, and the same name comes of them.
pub fn decode_name(raw: &[u8], encoding: &str) -> String {
    if encoding.eq_ignore_ascii_case("LATIN1") {
        return raw.iter().copied().map(char::from).collect();
    }
    let unicode = ["UTF8", "UNICODE", "SQL_ASCII"].iter().any(|name| encoding.eq_ignore_ascii_case(name));
    if unicode || raw.is_ascii() {
        return raw.utf8_chunks().fold(String::new(), |mut name, chunk| {
            name.push_str(chunk.valid());
            escape(chunk.invalid(), &mut name);
            name
        });
    }
    raw.iter().fold(String::new(), |mut name, byte| {
        if byte.is_ascii() {
            name.push(char::from(*byte));
        } else {
            escape(&[*byte], &mut name);
        }
        name
    })
}

/// A text of a catalog of the whole server, which keeps the bytes of whatever database it was written in, read by
/// `textsend()`: mostly UTF-8, or the encoding of the database that it is about.
pub fn decode_shared(raw: Vec<u8>, encoding: &str) -> String {
    String::from_utf8(raw).unwrap_or_else(|other| decode_name(other.as_bytes(), encoding))
}

fn escape(bytes: &[u8], into: &mut String) {
    for byte in bytes {
        write!(into, "\\x{byte:02X}").expect("a String takes everything");
    }
}

#[test]
fn names_of_every_encoding_have_one_spelling() {
    let cases: [(&[u8], &str, &str); 6] = [
        ("größe".as_bytes(), "UTF8", "größe"),
        (b"gr\xF6\xDFe", "LATIN1", "größe"),
        (b"gr\xF6\xDFe", "WIN1252", r"gr\xF6\xDFe"),
        ("größe".as_bytes(), "SQL_ASCII", "größe"),
        (b"gr\xF6e", "SQL_ASCII", r"gr\xF6e"),
        (b"plain", "EUC_JP", "plain"),
    ];
    for (raw, encoding, name) in cases {
        assert_eq!(decode_name(raw, encoding), name, "{encoding}");
    }
}
