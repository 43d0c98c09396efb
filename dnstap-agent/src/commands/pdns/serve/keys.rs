//! Keys of the clients, and how many requests each key may make.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use data_encoding::BASE64;
use hyper::{Request, header::HeaderValue};
use sha2::{Digest as _, Sha256};

/// Keys, in the order of the file.
///
/// Only the SHA-256 of each key is kept. All keys take the same time to compare, so the time does not show how much of a
/// key is right.
#[derive(Debug)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    hash: [u8; 32],
    limit: Option<Limit>,
    used: Mutex<Used>,
}

/// Largest number of requests in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    requests: u64,
    /// Length of a period in seconds. Periods begin at multiples of it since 1970.
    period: u64,
}

/// Requests of the current period.
#[derive(Debug, Default)]
struct Used {
    /// Number of the period.
    period: u64,
    requests: u64,
}

/// Amount that is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) limit: u64,
    pub(super) remaining: u64,
    /// Seconds since 1970 at which the period ends.
    pub(super) reset: u64,
}

/// Result of the check of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// The request may be answered. `None`: there is no limit.
    Granted(Option<Rate>),
    /// The key has no requests left.
    Exhausted(Rate),
    /// The request has no valid key.
    Denied,
}

impl Keys {
    /// Reads a key from each line, with its limit behind a space, such as `1000/day`. Skips empty lines, and lines that
    /// begin with `#`.
    pub(super) fn read(text: &str) -> Result<Self> {
        let mut keys = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, limit) = match line.split_once(char::is_whitespace) {
                Some((key, limit)) => {
                    let limit = Limit::parse(limit.trim());
                    (
                        key,
                        Some(limit.with_context(|| format!("line {}", at + 1))?),
                    )
                }
                None => (line, None),
            };
            keys.push(Key {
                hash: Sha256::digest(key).into(),
                limit,
                used: Mutex::default(),
            });
        }
        if keys.is_empty() {
            bail!("it has no key; write one on each line");
        }
        Ok(Self(keys))
    }

    /// Checks the key of a request: in `X-API-Key`, or as the password of basic authentication. `counts`: the request uses
    /// up the limit. `now`: seconds since 1970.
    pub(super) fn check<T>(&self, request: &Request<T>, counts: bool, now: u64) -> Access {
        let header = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
        if let Some(key) = header("x-api-key") {
            return self.find(key, counts, now);
        }
        let basic = header("authorization").and_then(|value| value.strip_prefix(b"Basic "));
        let pair = basic.and_then(|basic| BASE64.decode(basic).ok());
        let pair = pair.as_deref().unwrap_or_default();
        match pair.iter().position(|byte| *byte == b':') {
            Some(colon) => self.find(&pair[colon + 1..], counts, now),
            None => Access::Denied,
        }
    }

    fn find(&self, key: &[u8], counts: bool, now: u64) -> Access {
        let hash: [u8; 32] = Sha256::digest(key).into();
        let differs = |one: &[u8; 32]| one.iter().zip(hash).fold(0, |sum, (a, b)| sum | (a ^ b));
        let found = self.0.iter().fold(None, |found, one| {
            if differs(&one.hash) == 0 {
                Some(one)
            } else {
                found
            }
        });
        found.map_or(Access::Denied, |key| key.ask(counts, now))
    }
}

impl Key {
    fn ask(&self, counts: bool, now: u64) -> Access {
        let Some(Limit { requests, period }) = self.limit else {
            return Access::Granted(None);
        };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that is set back does not renew the limit.
        if now / period > used.period {
            *used = Used {
                period: now / period,
                requests: 0,
            };
        }
        let may_ask = !counts || used.requests < requests;
        used.requests += u64::from(counts && may_ask);
        let rate = Rate {
            limit: requests,
            remaining: requests - used.requests,
            reset: (used.period + 1) * period,
        };
        if may_ask {
            Access::Granted(Some(rate))
        } else {
            Access::Exhausted(rate)
        }
    }
}

impl Limit {
    fn parse(text: &str) -> Result<Self> {
        let wrong = || format!("{text:?} is no limit; write one such as 1000/day");
        let (requests, unit) = text.split_once('/').with_context(wrong)?;
        let period = match unit {
            "second" => 1,
            "minute" => 60,
            "hour" => 3_600,
            "day" => 86_400,
            _ => bail!("{unit:?} is no period; second, minute, hour and day are"),
        };
        let requests = requests.parse().ok().with_context(wrong)?;
        Ok(Self { requests, period })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn request(name: &str, value: &str) -> Request<()> {
        let request = Request::builder().header(name, value);
        request.body(()).expect("a request")
    }

    #[test]
    fn a_key_is_known_by_either_header_and_nothing_else_is() {
        let keys = Keys::read("# of ours\nsecret\n\n other \n").expect("keys");
        let granted = |name: &str, value: &str| {
            keys.check(&request(name, value), true, 0) == Access::Granted(None)
        };
        let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair.as_bytes()));
        assert!(granted("X-API-Key", "secret") && granted("X-API-Key", "other"));
        assert!(granted("Authorization", &basic("me:secret")));
        for wrong in ["", "secre", "secretx", "# of ours"] {
            assert!(!granted("X-API-Key", wrong), "{wrong}");
        }
        assert!(!granted("Authorization", &basic("secret")));
        assert!(!granted("Authorization", "Bearer secret"));
        assert!(!granted("Host", "secret"));
    }

    #[test]
    fn a_limit_is_for_one_key_and_one_period() {
        let keys = Keys::read("a 2/minute\nb\n").expect("keys");
        let ask = |key: &str, counts, now| keys.check(&request("X-API-Key", key), counts, now);
        let rate = |remaining, reset| Rate {
            limit: 2,
            remaining,
            reset,
        };
        assert_eq!(ask("a", true, 65), Access::Granted(Some(rate(1, 120))));
        assert_eq!(ask("a", false, 65), Access::Granted(Some(rate(1, 120))));
        assert_eq!(ask("a", true, 119), Access::Granted(Some(rate(0, 120))));
        assert_eq!(ask("a", true, 119), Access::Exhausted(rate(0, 120)));
        assert_eq!(ask("a", false, 119), Access::Granted(Some(rate(0, 120))));
        assert_eq!(ask("b", true, 119), Access::Granted(None));
        assert_eq!(ask("a", true, 120), Access::Granted(Some(rate(1, 180))));
        // The clock is set back.
        assert_eq!(ask("a", true, 60), Access::Granted(Some(rate(0, 180))));
        assert_eq!(ask("a", true, 60), Access::Exhausted(rate(0, 180)));
    }

    #[rstest]
    #[case("# nothing\n", "no key")]
    #[case("\na 5\n", "line 2")]
    #[case("a x/day", "line 1")]
    #[case("a 5/week", "line 1")]
    #[case("a -5/day", "line 1")]
    fn what_is_no_list_of_keys_is_refused(#[case] text: &str, #[case] why: &str) {
        let error = format!("{:#}", Keys::read(text).expect_err("refused"));
        assert!(error.contains(why), "{error}");
    }
}
