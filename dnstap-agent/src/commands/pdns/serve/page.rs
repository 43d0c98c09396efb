//! The page for people. It is static: its script asks the same interface as programs do.

use data_encoding::BASE64;
use hyper::{
    Response,
    header::{self, HeaderValue},
};
use sha2::{Digest as _, Sha256};

use super::Lines;

const PAGE: &str = include_str!("page.html");

/// Returns the page. The browser runs the page's own script and no other, and lets it ask this server only.
pub(super) fn response() -> Response<Lines> {
    let mut response = Lines::typed(PAGE.to_owned(), "text/html; charset=utf-8");
    let policy = format!(
        "default-src 'none'; connect-src 'self'; script-src '{}'; style-src '{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        source("script"),
        source("style")
    );
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Returns the hash by which a policy names the text of an element of the page (CSP level 3, section 2.3.1).
fn source(element: &str) -> String {
    let (begin, end) = (format!("<{element}>"), format!("</{element}>"));
    let text = PAGE
        .split_once(&begin)
        .and_then(|(_, rest)| rest.split_once(&end));
    let text = text.map_or("", |(text, _)| text);
    format!("sha256-{}", BASE64.encode(&Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_the_script_and_the_style() {
        let response = response();
        let policy = &response.headers()[header::CONTENT_SECURITY_POLICY];
        let policy = policy.to_str().expect("text");
        let empty = BASE64.encode(&Sha256::digest(""));
        assert_eq!(policy.matches("sha256-").count(), 2);
        assert!(!policy.contains(&empty), "{policy}");
        // Attributes with code or style would need `unsafe-inline`.
        for wrong in [" onclick=", " style=", " src=", "http://", "https://"] {
            assert!(!PAGE.contains(wrong), "{wrong}");
        }
    }
}
