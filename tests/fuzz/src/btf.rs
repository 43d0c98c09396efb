//! BTF from a file (`DNSTAP_AGENT_BTF`): each look-up ends with an answer or an error. BTF that was cut down to some names is BTF, and
//! cutting it down to the same names changes nothing.
//!
//! The input is the BTF. The names are taken from the end of it, where its strings are.

use std::str;

use dnstap_agent::sources::socket::btf::Btf;

/// Names that are looked up.
const NAMES: usize = 8;

/// Runs the target.
///
/// # Panics
///
/// If something does not hold.
pub fn run(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes) else {
        return;
    };
    let strings = bytes.rsplit(|byte| *byte == 0);
    let names: Vec<_> = strings
        .filter_map(|text| str::from_utf8(text).ok())
        .filter(|text| !text.is_empty())
        .take(NAMES)
        .collect();
    for name in &names {
        for path in [&names[..1], &names] {
            // An offset in bytes is the one in bits, if that is a whole number of bytes.
            if let (Ok(offset), Ok(bits)) = (btf.offset(name, path), btf.bits(name, path)) {
                assert_eq!(u64::from(offset) * 8, u64::from(bits), "{name}.{path:?}");
            }
        }
        let _answered = btf.enumerator(name);
    }
    let Ok(cut) = btf.names_alone(&names) else {
        return;
    };
    let names_of_cut = Btf::parse(&cut).and_then(|cut| cut.names_alone(&names));
    assert_eq!(names_of_cut.as_ref(), Ok(&cut), "nothing is left to cut");
}
