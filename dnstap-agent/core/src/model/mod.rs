//! Values that all stages share. Nothing here imports a stage.

mod clock;
mod counts;
mod endpoint;
mod envelope;
mod exchange;
mod finding;
mod frames;
mod net;
mod notice;
mod types;

pub use self::{
    clock::Clock,
    counts::{Pending, SocketCounts},
    endpoint::Endpoint,
    envelope::{Direction, Envelope, Family, Origin, Protocol, Proxied},
    exchange::{Kind, Role, Subject},
    finding::Finding,
    frames::Frames,
    net::Net,
    notice::{Asked, Notice},
    types::{KindCounts, MESSAGE_TYPES, MessageType, TypeSet, is_response, long_name, short_name},
};
