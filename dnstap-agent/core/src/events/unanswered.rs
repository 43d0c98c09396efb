//! Queries without a response, as events.

use dnstap_proto::{
    Unanswered,
    event::{Kind as Content, Phase},
};

use super::{EventKind, Output, address, wire};
use crate::{
    dns::Dns,
    model::{Asked, Endpoint, Role},
};

/// Reports a query that got no response for this time.
pub(crate) fn unanswered(query: &Asked, waited_ns: u64, output: &mut Output<'_>) {
    if !output.events.want(EventKind::Unanswered) {
        return;
    }
    let envelope = &query.envelope;
    let proxied = envelope.proxied;
    let peer = proxied.map_or(envelope.peer, |proxied| proxied.peer);
    let local = proxied.map_or(envelope.local, |proxied| proxied.local);
    let (client, server) = match query.finding.role {
        Role::Responder => (peer, local),
        Role::Initiator => (local, peer),
    };
    let port = |end: Endpoint| (end.port != 0).then_some(u32::from(end.port));
    let dns = Dns::parse(&query.message).ok();
    let question = dns.and_then(|dns| dns.question().ok().flatten());
    let content = Content::Unanswered(Unanswered {
        message_type: Some(query.finding.number().into()),
        client_address: address(client),
        client_port: port(client),
        server_address: address(server),
        server_port: port(server),
        name: question.map(|question| wire(question.name)),
        class: question.map(|question| question.class.0.into()),
        r#type: question.map(|question| question.kind.0.into()),
        waited_ns: Some(waited_ns),
        socket_protocol: Some(envelope.protocol.in_dnstap() as u32),
    });
    let at = envelope.ktime_ns.saturating_add(waited_ns);
    output.emit(at, Phase::Point, envelope.origin.tgid, content);
}
