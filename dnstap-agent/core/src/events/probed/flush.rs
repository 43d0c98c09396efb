//! Removals from a cache at the operator's word ([`FlushNotice`]).

use std::mem::offset_of;

use dnstap_ebpf::FlushNotice;
use dnstap_proto::{Purge, purge::Scope};

use super::{names, u16_at, u32_at, u64_at};

/// A removal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flush<'a> {
    view: &'a [u8],
    /// Name that is flushed, in wire format; `None`: everything.
    pub(super) name: Option<&'a [u8]>,
    /// Whether the names below the name are flushed, too.
    pub(super) tree: bool,
    /// Addresses of which one may be that of the cache.
    pub(super) databases: [u64; 2],
}

impl<'a> Flush<'a> {
    /// Decodes a notice of `dns_view_flushcache`, or with `of_node` of `dns_view_flushnode`.
    pub(super) fn parse(notice: &'a [u8], of_node: bool) -> Option<Self> {
        let at = offset_of!(FlushNotice, databases);
        let databases = [u64_at(notice, at)?, u64_at(notice, at + 8)?];
        let tree = u32_at(notice, offset_of!(FlushNotice, tree))? != 0;
        let view_len = usize::from(u16_at(notice, offset_of!(FlushNotice, view_len))?);
        let name_len = usize::from(u16_at(notice, offset_of!(FlushNotice, name_len))?);
        let (view, name) = notice
            .get(size_of::<FlushNotice>()..)?
            .split_at_checked(view_len)?;
        let is_sound = name.len() == name_len
            && view.last().is_none_or(|end| *end == 0)
            && if of_node {
                names::is_name(name)
            } else {
                name.is_empty()
            };
        is_sound.then_some(Self {
            view: view.strip_suffix(b"\0").unwrap_or_default(),
            name: of_node.then_some(name),
            tree,
            databases,
        })
    }

    /// Returns the name of the view.
    pub(super) fn view(&self) -> Option<String> {
        (!self.view.is_empty()).then(|| String::from_utf8_lossy(self.view).into_owned())
    }

    /// Returns the event.
    pub(super) fn purge(&self) -> Purge {
        let scope = match (self.name, self.tree) {
            (None, _) => Scope::Cache,
            (Some(_), false) => Scope::Name,
            (Some(_), true) => Scope::Tree,
        };
        Purge {
            scope: Some(scope as i32),
            name: self.name.map(|name| name.to_vec().into()),
            ..Purge::default()
        }
    }
}

#[cfg(test)]
impl<'a> Flush<'a> {
    /// Returns a removal for tests.
    pub(super) const fn of(name: Option<&'a [u8]>, tree: bool, databases: [u64; 2]) -> Self {
        Self {
            view: b"",
            name,
            tree,
            databases,
        }
    }
}

#[cfg(test)]
pub(super) mod fixture {
    use dnstap_ebpf::Function;

    /// Builds a notice.
    pub(crate) fn notice(
        view: &str,
        name: Option<&[u8]>,
        tree: bool,
        databases: [u64; 2],
    ) -> Vec<u8> {
        let view = [view.as_bytes(), b"\0"].concat();
        let bytes = [&view[..], name.unwrap_or_default()].concat();
        let function = name.map_or(Function::FlushCache, |_| Function::FlushNode);
        let mut notice = (function as u32).to_ne_bytes().to_vec();
        notice.extend(u32::try_from(32 + bytes.len()).unwrap().to_ne_bytes());
        notice.extend(u32::from(tree).to_ne_bytes());
        for length in [view.len(), name.unwrap_or_default().len()] {
            notice.extend(u16::try_from(length).unwrap().to_ne_bytes());
        }
        notice.extend(databases.into_iter().flat_map(u64::to_ne_bytes));
        notice.extend(bytes);
        notice
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{fixture::notice, *};

    #[test]
    fn the_scope_is_that_of_the_call() {
        let name = b"\x04test\0";
        let all = notice("_default", None, true, [1, 2]);
        let all = Flush::parse(&all, false).unwrap();
        assert_eq!(all.view().as_deref(), Some("_default"));
        assert_eq!(all.databases, [1, 2]);
        assert_eq!(all.purge().scope, Some(Scope::Cache as i32));
        for (tree, scope) in [(false, Scope::Name), (true, Scope::Tree)] {
            let one = notice("inside", Some(name), tree, [1, 2]);
            let purge = Flush::parse(&one, true).unwrap().purge();
            assert_eq!(purge.scope, Some(scope as i32));
            assert_eq!(purge.name.as_deref(), Some(&name[..]));
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let one = notice("v", Some(b"\x01a\0"), false, [1, 2]);
        assert!(Flush::parse(&one, true).is_some());
        assert_eq!(Flush::parse(&one, false), None);
        for length in 0..one.len() {
            assert_eq!(Flush::parse(&one[..length], true), None, "{length}");
        }
        let broken = notice("v", Some(b"\x01a"), false, [1, 2]);
        assert_eq!(Flush::parse(&broken, true), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_flush_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..100), of_node: bool) {
            let _flush = Flush::parse(&bytes, of_node);
        }
    }
}
