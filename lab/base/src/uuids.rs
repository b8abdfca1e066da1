//! Ids as they are typed on the command line. Only UUIDs are accepted, so that nothing else gets into a statement.
//!
//! Left out: whether there is anything with that id.

/// Parses a UUID; returns it in lower case.
///
/// # Errors
/// The form that was expected, as a sentence for clap's message.
pub fn parse(text: &str) -> Result<String, String> {
    let lengths = text.split('-').map(str::len);
    let is_uuid = lengths.eq([8, 4, 4, 4, 12])
        && text
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    is_uuid
        .then(|| text.to_ascii_lowercase())
        .ok_or_else(|| "expected an id as it is listed, a UUID".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_uuid_is_an_id() {
        let id = "0195A000-0000-7000-8000-000000000001";
        assert_eq!(parse(id).unwrap(), id.to_ascii_lowercase());
        for wrong in [
            "",
            "1",
            "' OR true --",
            "0195a000-0000-7000-8000-00000000000g",
            "0195a0000000-7000-8000-0000-00000001",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
