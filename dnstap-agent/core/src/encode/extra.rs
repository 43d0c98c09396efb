//! The dnstap `extra` field: process, thread and more, on request.
//!
//! It is one JSON object (RFC 8259) without spaces. The members are in this order, each only if
//! asked for: `{"pid":1234,"tid":1240,"hook":"fentry","netns":4026531840}`. `netns` is the inode
//! number of the process's network namespace, as in `/proc/PID/ns/net`. An unsolicited response
//! always has `"unsolicited":true` as the last member.

use std::{fmt::Arguments, io::Write as _, str::FromStr};

use dnstap_ebpf::Hook;

use crate::model::Origin;

/// A member of `extra`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtraField {
    /// Process id.
    Pid,
    /// Thread id.
    Tid,
    /// Name of the hook that saw the message.
    Hook,
    /// Network namespace.
    Netns,
}

impl FromStr for ExtraField {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "pid" => Ok(Self::Pid),
            "tid" => Ok(Self::Tid),
            "hook" => Ok(Self::Hook),
            "netns" => Ok(Self::Netns),
            _ => Err("there are pid, tid, hook and netns".to_owned()),
        }
    }
}

/// Choice of members.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Members to write; if empty, the field is left out.
    pub fields: Vec<ExtraField>,
}

impl Extra {
    /// Returns whether a message may have members; `unsolicited`: it is an unsolicited response.
    #[inline]
    pub(crate) fn is_wanted(&self, unsolicited: bool) -> bool {
        unsolicited || !self.fields.is_empty()
    }

    /// Replaces `out` by the object of one message; empty if no member is known. `netns`: network
    /// namespace of the process, if known. `unsolicited`: the message is an unsolicited response.
    pub(crate) fn write(
        &self,
        origin: Origin,
        netns: Option<u64>,
        unsolicited: bool,
        out: &mut Vec<u8>,
    ) {
        out.clear();
        let mut member = |wanted: bool, value: Arguments<'_>| {
            if wanted {
                out.push(if out.is_empty() { b'{' } else { b',' });
                // Writing to a vector does not fail.
                out.write_fmt(value).unwrap_or_default();
            }
        };
        let has = |field| self.fields.contains(&field);
        member(
            has(ExtraField::Pid),
            format_args!("\"pid\":{}", origin.tgid),
        );
        member(has(ExtraField::Tid), format_args!("\"tid\":{}", origin.tid));
        if let Some(hook) = Hook::of(origin.hook).map(Hook::name) {
            member(has(ExtraField::Hook), format_args!("\"hook\":\"{hook}\""));
        }
        if let Some(netns) = netns {
            member(has(ExtraField::Netns), format_args!("\"netns\":{netns}"));
        }
        member(unsolicited, format_args!("\"unsolicited\":true"));
        if !out.is_empty() {
            out.push(b'}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_has_what_was_asked_for_in_a_fixed_order() {
        let origin = Origin {
            tgid: 10,
            tid: 11,
            hook: 2,
            program_id: 0,
        };
        let mut out = b"left over".to_vec();
        let write = |fields: &[ExtraField], unsolicited, out: &mut Vec<u8>| {
            let extra = Extra {
                fields: fields.to_vec(),
            };
            extra.write(origin, Some(9), unsolicited, out);
            String::from_utf8(out.clone()).unwrap()
        };
        let all = ["netns", "tid", "pid", "hook"].map(|name| name.parse().unwrap());
        assert_eq!(
            write(&all, false, &mut out),
            r#"{"pid":10,"tid":11,"hook":"socket","netns":9}"#
        );
        assert_eq!(write(&[ExtraField::Tid], false, &mut out), r#"{"tid":11}"#);
        assert_eq!(write(&[], false, &mut out), "");
        assert_eq!(
            write(&[ExtraField::Tid], true, &mut out),
            r#"{"tid":11,"unsolicited":true}"#
        );
        assert_eq!(write(&[], true, &mut out), r#"{"unsolicited":true}"#);
        assert!("cgroup".parse::<ExtraField>().is_err());
    }
}
