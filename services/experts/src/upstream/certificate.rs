//! The one date of a certificate that operators ask for, read without an X.509 library.

/// An element's tag and content, and what follows it.
type Element<'a> = (u8, &'a [u8], &'a [u8]);

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When a DER certificate ends (`notAfter`, RFC 5280 section 4.1.2.5), in seconds since 1970 UTC; `None` when
/// it cannot be read. Nothing is verified here.
pub fn not_after(certificate: &[u8]) -> Option<u64> {
    let (SEQUENCE, certificate, _) = element(certificate)? else { return None };
    let (SEQUENCE, mut fields, _) = element(certificate)? else { return None };
    let (tag, _, rest) = element(fields)?;
    if tag == VERSION {
        fields = rest;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (SEQUENCE, validity, _) = element(fields)? else { return None };
    let (_, _, rest) = element(validity)?;
    let (tag, text, _) = element(rest)?;
    time(tag, text)
}

fn element(input: &[u8]) -> Option<Element<'_>> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // The long form; four bytes are more than any certificate needs.
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, the two forms that RFC 5280 allows.
fn time(tag: u8, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => (number(0, 2).map(|y| if y < 50 { 2000 + y } else { 1900 + y })?, 2),
        (GENERALIZED_TIME, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let part = |at: usize| number(rest + at, rest + at + 2);
    let (month, day) = (part(0)?, part(2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return None;
    }
    Some(days(year, month, day)? * 86_400 + part(4)? * 3_600 + part(6)? * 60 + part(8)?)
}

/// Days from 1970-01-01 in the Gregorian calendar: years are counted from March, so that the leap day is a
/// year's last (H. Hinnant, "chrono-compatible low-level date algorithms", `days_from_civil`).
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    (era * 146_097 + of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        match content.len() {
            short @ 0..=127 => out.push(short as u8),
            long => out.extend([0x82, (long >> 8) as u8, long as u8]),
        }
        out.extend(content);
        out
    }

    fn certificate(version: bool, tag: u8, end: &[u8]) -> Vec<u8> {
        let mut fields = if version { wrap(VERSION, &[2, 1, 2]) } else { Vec::new() };
        fields.extend(wrap(0x02, &[9; 20]));
        fields.extend(wrap(SEQUENCE, &[]));
        fields.extend(wrap(SEQUENCE, &[7; 300]));
        let validity = [wrap(UTC_TIME, b"240101000000Z"), wrap(tag, end)].concat();
        fields.extend(wrap(SEQUENCE, &validity));
        fields.extend(wrap(SEQUENCE, &[1; 40]));
        wrap(SEQUENCE, &[wrap(SEQUENCE, &fields), wrap(SEQUENCE, &[])].concat())
    }

    #[test]
    fn the_end_is_read_in_both_forms() {
        // `date -u -d 2030-02-28T23:59:58 +%s` and `date -u -d 2051-03-01T00:00:00 +%s`
        assert_eq!(not_after(&certificate(true, UTC_TIME, b"300228235958Z")), Some(1_898_553_598));
        assert_eq!(not_after(&certificate(false, GENERALIZED_TIME, b"20510301000000Z")), Some(2_561_241_600));
        assert_eq!(time(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(time(GENERALIZED_TIME, b"20000229120000Z"), Some(951_825_600));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for (tag, text) in [
            (UTC_TIME, &b"300228235958"[..]),
            (UTC_TIME, b"301328235958Z"),
            (UTC_TIME, b"30022823595 Z"),
            (0x0c, b"300228235958Z"),
            (GENERALIZED_TIME, b"19690101000000Z"),
        ] {
            assert_eq!(not_after(&certificate(true, tag, text)), None, "{}", text.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..500) {
            let _ = not_after(&bytes);
            let mut whole = certificate(true, UTC_TIME, b"300228235958Z");
            whole.truncate(cut);
            let _ = not_after(&whole);
        }
    }
}
