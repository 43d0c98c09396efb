//! Sends and receives dnstap over TCP, with a handshake (bidirectional) or without (unidirectional); the receiver takes both:
//!
//!     cargo run -p dnstap-proto --example tcp -- receive 127.0.0.1:6000
//!     cargo run -p dnstap-proto --example tcp -- send 127.0.0.1:6000
//!     cargo run -p dnstap-proto --example tcp -- send-unidirectional 127.0.0.1:6000

use std::{
    env,
    error::Error,
    io::BufWriter,
    net::{TcpListener, TcpStream},
    time::Duration,
};

use dnstap_proto::{
    Dnstap, DnstapRef, MessageRef,
    frame_streams::{DNSTAP_CONTENT_TYPE, SocketReader, SocketWriter, Writer},
    message,
    prost::Message as _,
};

fn main() -> Result<(), Box<dyn Error>> {
    match &env::args().skip(1).collect::<Vec<_>>()[..] {
        [what, address] if what == "send" => send(TcpStream::connect(address)?),
        [what, address] if what == "send-unidirectional" => {
            send_unidirectional(TcpStream::connect(address)?)
        }
        [what, address] if what == "receive" => {
            let listener = TcpListener::bind(address)?; // the receiver listens, senders connect
            for dnstap in receive(listener.accept()?.0)? {
                println!("{dnstap:?}");
            }
            Ok(())
        }
        _ => Err("usage: tcp send|send-unidirectional|receive ADDRESS:PORT".into()),
    }
}

/// READY, ACCEPT, START, data, STOP, FINISH: returns when the receiver has confirmed that it has received everything.
pub(crate) fn send(socket: TcpStream) -> Result<(), Box<dyn Error>> {
    socket.set_read_timeout(Some(Duration::from_secs(10)))?; // do not wait for ever for a silent receiver
    let mut writer = SocketWriter::new(socket, DNSTAP_CONTENT_TYPE)?;
    writer.write_frame(&query().encode_to_vec())?;
    writer.finish()?;
    Ok(())
}

/// START, data, STOP, as in a file: the sender does not learn what has arrived.
pub(crate) fn send_unidirectional(socket: TcpStream) -> Result<(), Box<dyn Error>> {
    let mut writer = Writer::new(BufWriter::new(socket), DNSTAP_CONTENT_TYPE)?;
    writer.write_frame(&query().encode_to_vec())?;
    writer.finish()?;
    Ok(())
}

/// Receives all messages of one sender, with or without a handshake.
pub(crate) fn receive(socket: TcpStream) -> Result<Vec<Dnstap>, Box<dyn Error>> {
    let mut messages = Vec::new();
    for frame in SocketReader::new(socket, DNSTAP_CONTENT_TYPE)? {
        messages.push(Dnstap::decode(frame?.payload)?);
    }
    Ok(messages)
}

fn query() -> DnstapRef<'static> {
    DnstapRef::new(MessageRef::new(message::Type::ForwarderQuery))
}
