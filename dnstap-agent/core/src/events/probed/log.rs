//! Lines of a server's log, put together from format and arguments ([`LogNotice`]).
//!
//! The formats are those of C. The agent knows the conversions that BIND uses in these lines; a line with another one
//! is refused.

use std::{fmt::Write as _, mem::offset_of};

use dnstap_ebpf::{LOG_ARGUMENTS, LOG_QUERY_ERRORS, LOG_RATE_LIMIT, LOG_TRANSFER, LogNotice};

use super::{u16_at, u32_at, u64_at};

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// [`LOG_RATE_LIMIT`], [`LOG_TRANSFER`] or [`LOG_QUERY_ERRORS`].
    pub(super) category: u32,
    /// Text, as the log has it behind category and level.
    pub(super) text: String,
}

impl Line {
    /// Decodes a notice of `isc_log_write`.
    pub(super) fn parse(notice: &[u8]) -> Option<Self> {
        let category = u32_at(notice, offset_of!(LogNotice, category))?;
        if ![LOG_RATE_LIMIT, LOG_TRANSFER, LOG_QUERY_ERRORS].contains(&category) {
            return None;
        }
        let mut strings = notice.get(size_of::<LogNotice>()..)?;
        let mut string = |n: usize| -> Option<Option<String>> {
            let at = offset_of!(LogNotice, lengths) + 2 * n;
            let Some(length) = usize::from(u16_at(notice, at)?).checked_sub(1) else {
                return Some(None);
            };
            let (string, rest) = strings.split_at_checked(length)?;
            let ([0], rest) = rest.split_first_chunk()? else {
                return None;
            };
            strings = rest;
            Some(Some(String::from_utf8_lossy(string).into_owned()))
        };
        let format = string(0)??;
        let mut arguments = Vec::with_capacity(LOG_ARGUMENTS);
        for n in 0..LOG_ARGUMENTS {
            let value = u64_at(notice, offset_of!(LogNotice, arguments) + 8 * n)?;
            arguments.push((value, string(n + 1)?));
        }
        let text = print(&format, arguments.into_iter())?;
        Some(Self { category, text })
    }
}

/// Prints arguments as `printf` does.
fn print(
    format: &str,
    mut arguments: impl Iterator<Item = (u64, Option<String>)>,
) -> Option<String> {
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, behind)) = rest.split_once('%') {
        text.push_str(before);
        let conversion = behind.trim_start_matches(|c: char| c.is_ascii_digit());
        let width = &behind[..behind.len() - conversion.len()];
        let is_long = conversion.starts_with(['l', 'z', 'j']);
        let conversion = conversion.trim_start_matches(['l', 'z', 'j']);
        let mut characters = conversion.chars();
        let kind = characters.next()?;
        rest = characters.as_str();
        if kind == '%' {
            text.push('%');
            continue;
        }
        let (value, string) = arguments.next()?;
        let short = u32::try_from(value & u64::from(u32::MAX)).ok()?;
        let number = if is_long { value } else { short.into() };
        let printed = match kind {
            's' => string?,
            'u' => number.to_string(),
            'd' | 'i' if is_long => value.cast_signed().to_string(),
            'd' | 'i' => short.cast_signed().to_string(),
            'x' => format!("{number:x}"),
            'p' => format!("{value:#x}"),
            _ => return None,
        };
        // Widths are of numbers, with zeroes in front: `%03u`.
        match width.strip_prefix('0') {
            None if width.is_empty() => text.push_str(&printed),
            Some(zeroes) => {
                write!(text, "{printed:0>width$}", width = zeroes.parse().ok()?).ok()?;
            }
            None => return None,
        }
    }
    text.push_str(rest);
    Some(text)
}

#[cfg(test)]
pub(super) mod fixture {
    use super::*;
    use dnstap_ebpf::Function;

    /// Builds a notice. Each argument is a number or a string.
    pub(crate) fn notice(category: u32, format: &str, arguments: &[Result<u64, &str>]) -> Vec<u8> {
        let mut strings = format.as_bytes().to_vec();
        strings.push(0);
        let mut lengths = vec![u16::try_from(strings.len()).unwrap()];
        let mut values = Vec::new();
        for argument in arguments {
            values.push(argument.unwrap_or(0xdead));
            let string = argument
                .err()
                .map(|string| [string.as_bytes(), b"\0"].concat());
            let string = string.unwrap_or_default();
            lengths.push(u16::try_from(string.len()).unwrap());
            strings.extend(string);
        }
        values.resize(LOG_ARGUMENTS, 7);
        lengths.resize(LOG_ARGUMENTS + 2, 0);
        let length = u32::try_from(size_of::<LogNotice>() + strings.len()).unwrap();
        let mut notice = Vec::new();
        for number in [Function::LogWrite as u32, length, category, u32::MAX] {
            notice.extend(number.to_ne_bytes());
        }
        notice.extend(values.into_iter().flat_map(u64::to_ne_bytes));
        notice.extend(lengths.into_iter().flat_map(u16::to_ne_bytes));
        notice.extend(strings);
        notice
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::{fixture::notice, *};

    #[rstest]
    #[case("%s", &[Err("limit all")], Some("limit all"))]
    #[case("client @%p %s%s: %s", &[Ok(0x7f), Err("a#1"), Err(""), Err("x")], Some("client @0x7f a#1: x"))]
    #[case("%lu bytes, %u.%03u secs, 100%%", &[Ok(1 << 40), Ok(3), Ok(14)], Some("1099511627776 bytes, 3.014 secs, 100%"))]
    #[case("%d %ld", &[Ok(0xffff_ffff), Ok(u64::MAX)], Some("-1 -1"))]
    #[case("%s", &[Ok(3)], None)]
    #[case("%f", &[Ok(3)], None)]
    #[case("%", &[Ok(3)], None)]
    #[case("%5s", &[Err("a")], None)]
    fn lines_are_printed(
        #[case] format: &str,
        #[case] arguments: &[Result<u64, &str>],
        #[case] text: Option<&str>,
    ) {
        let line = Line::parse(&notice(LOG_RATE_LIMIT, format, arguments));
        assert_eq!(line.map(|line| line.text).as_deref(), text);
    }

    #[test]
    fn what_is_cut_is_refused() {
        let whole = notice(LOG_TRANSFER, "%s %s", &[Err("a"), Err("b")]);
        assert!(Line::parse(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(Line::parse(&whole[..length]), None, "{length}");
        }
        assert_eq!(Line::parse(&notice(9, "%s", &[Err("a")])), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_line_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _line = Line::parse(&bytes);
        }

        #[test]
        fn any_format_gives_a_text_or_none(format in "[%a-z0-9 ]{0,30}", value in any::<u64>()) {
            let _text = print(&format, std::iter::repeat_n((value, Some("s".to_owned())), 10));
        }
    }
}
