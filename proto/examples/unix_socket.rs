//! Sends and receives dnstap over a unix socket, with the handshake that servers and `fstrm_capture` use (bidirectional):
//!
//!     cargo run -p dnstap-proto --example unix_socket -- receive PATH
//!     cargo run -p dnstap-proto --example unix_socket -- send PATH

use std::{
    env,
    error::Error,
    os::unix::net::{UnixListener, UnixStream},
};

use dnstap_proto::{
    Dnstap, DnstapRef, MessageRef,
    frame_streams::{DNSTAP_CONTENT_TYPE, SocketReader, SocketWriter},
    message,
    prost::Message as _,
};

fn main() -> Result<(), Box<dyn Error>> {
    match &env::args().skip(1).collect::<Vec<_>>()[..] {
        [what, path] if what == "send" => send(UnixStream::connect(path)?),
        [what, path] if what == "receive" => {
            let listener = UnixListener::bind(path)?; // the receiver listens, senders connect
            for dnstap in receive(listener.accept()?.0)? {
                println!("{dnstap:?}");
            }
            Ok(())
        }
        _ => Err("usage: unix_socket send|receive PATH".into()),
    }
}

/// Sends two messages. Returns when the receiver has confirmed that it has received everything.
pub(crate) fn send(socket: UnixStream) -> Result<(), Box<dyn Error>> {
    let mut writer = SocketWriter::new(socket, DNSTAP_CONTENT_TYPE)?;
    for r#type in [message::Type::ClientQuery, message::Type::ClientResponse] {
        let dnstap = DnstapRef::new(MessageRef::new(r#type));
        writer.write_frame(&dnstap.encode_to_vec())?;
    }
    writer.finish()?;
    Ok(())
}

/// Receives all messages of one sender.
pub(crate) fn receive(socket: UnixStream) -> Result<Vec<Dnstap>, Box<dyn Error>> {
    let mut messages = Vec::new();
    for frame in SocketReader::new(socket, DNSTAP_CONTENT_TYPE)? {
        messages.push(Dnstap::decode(frame?.payload)?);
    }
    Ok(messages)
}
