//! Owns what the outputs and `receive` share about sockets: how an operator names one, and byte streams of every kind
//! behind one type.
//!
//! It knows nothing of frames; those are `dnstap_proto`'s. What Linux tells about a connection that no protocol says is
//! asked here, too: whether the peer has taken all that was written ([`Stream::is_drained`]).

mod address;
mod stream;
mod tls;
mod unix;

pub use self::{
    address::{Address, AddressError, Tls},
    stream::{Arrival, Listener, Stream},
    tls::{acceptor, connector},
    unix::{SocketFile, explain_unix, is_left_behind, listen_unix},
};
