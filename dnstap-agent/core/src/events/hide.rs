//! Privacy of events: what [`Anonymiser`](crate::privacy::Anonymiser) hides of messages is hidden of events, too.
//!
//! Addresses of clients are replaced. Addresses of servers that the process asks stay. If names are hidden, rdata is, too.

use dnstap_proto::{
    event::Kind as Content, message::Type, prost::bytes::Bytes, transfer::Direction,
};

use crate::privacy::{Method, Privacy};

/// Hides what is private in an event.
pub(super) fn hide(content: &mut Content, privacy: &Privacy) {
    if let Some(method) = &privacy.addresses {
        let address = match content {
            Content::Transfer(transfer) if transfer.direction == Some(Direction::Out as i32) => {
                &mut transfer.peer_address
            }
            Content::RateLimit(limit) => &mut limit.client_address,
            Content::Unanswered(query) if is_asked_by_client(query.message_type) => {
                &mut query.client_address
            }
            _ => &mut None,
        };
        hide_address(address, method);
    }
    if privacy.no_names {
        hide_names(content);
    }
}

/// Returns whether the process may be the one that is asked by messages of this type.
fn is_asked_by_client(message_type: Option<u32>) -> bool {
    [Type::AuthQuery, Type::ClientQuery, Type::UpdateQuery]
        .iter()
        .any(|kind| message_type == Some(*kind as u32))
}

fn hide_address(address: &mut Option<Bytes>, method: &Method) {
    if let Some(bytes) = address {
        let mut hidden = bytes.to_vec();
        method.hide(&mut hidden);
        *bytes = hidden.into();
    }
}

fn hide_names(content: &mut Content) {
    match content {
        Content::Transfer(transfer) => {
            transfer.zone = None;
            transfer.tsig_key = None;
        }
        Content::RateLimit(limit) => limit.name = None,
        Content::Cache(cache) => {
            (cache.name, cache.bailiwick) = (None, None);
            cache.rdata.clear();
        }
        Content::NsChange(change) => {
            change.name = None;
            change.old_servers.clear();
            change.new_servers.clear();
        }
        Content::Purge(purge) => purge.name = None,
        Content::Expiry(expiry) => expiry.name = None,
        Content::Unanswered(query) => query.name = None,
    }
}

#[cfg(test)]
mod tests {
    use dnstap_proto::{NsChange, Transfer};

    use super::*;
    use crate::privacy::Prefixes;

    fn transfer(direction: Direction) -> Content {
        Content::Transfer(Transfer {
            direction: Some(direction as i32),
            zone: Some(Bytes::from_static(b"\x04zone\0")),
            peer_address: Some(Bytes::from_static(&[192, 0, 2, 77])),
            ..Transfer::default()
        })
    }

    #[test]
    fn the_address_of_a_client_is_replaced_and_that_of_a_server_is_not() {
        let privacy = Privacy {
            addresses: Some(Method::Truncate(Prefixes { v4: 24, v6: 48 })),
            no_names: false,
        };
        for (direction, left) in [(Direction::Out, 0), (Direction::In, 77)] {
            let mut content = transfer(direction);
            hide(&mut content, &privacy);
            let Content::Transfer(transfer) = content else {
                panic!("it was a transfer")
            };
            assert_eq!(
                transfer.peer_address.as_deref(),
                Some(&[192, 0, 2, left][..])
            );
            assert!(transfer.zone.is_some());
        }
    }

    #[test]
    fn no_name_is_left_if_names_are_hidden() {
        let privacy = Privacy {
            addresses: None,
            no_names: true,
        };
        let name = Bytes::from_static(b"\x04zone\0");
        let mut content = Content::NsChange(NsChange {
            name: Some(name.clone()),
            old_servers: vec![name.clone()],
            new_servers: vec![name],
            ..NsChange::default()
        });
        hide(&mut content, &privacy);
        assert_eq!(content, Content::NsChange(NsChange::default()));
    }
}
