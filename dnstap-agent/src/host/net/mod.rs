//! Sockets for outputs and `receive`: their names on the command line, and byte streams of every
//! kind behind one type.
//!
//! This module does not know frames; `dnstap_proto` does. It also asks Linux for state that no
//! protocol tells: whether the peer has accepted all written bytes ([`Stream::is_drained`]).

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
