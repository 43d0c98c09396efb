//! Writes a dnstap file with one query: `cargo run -p dnstap-proto --example write_file > queries.dnstap`

use std::{error::Error, io, time::SystemTime};

use dnstap_proto::frame_streams::{DNSTAP_CONTENT_TYPE, Writer};
use dnstap_proto::{DnstapRef, MessageRef, message};

fn main() -> Result<(), Box<dyn Error>> {
    write(io::stdout().lock())
}

pub(crate) fn write(file: impl io::Write) -> Result<(), Box<dyn Error>> {
    let message = MessageRef {
        query_address: Some(&[192, 0, 2, 1]),
        query_time: Some(SystemTime::now().try_into()?),
        query_message: Some(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\0\0\x01\0\x01"), // ". IN A"
        ..MessageRef::new(message::Type::ClientQuery)
    };
    let mut dnstap = DnstapRef::new(message);
    dnstap.identity = Some(b"ns1"); // the name of the server that the query came to
    let mut writer = Writer::new(file, DNSTAP_CONTENT_TYPE)?;
    writer.write_frame(&dnstap.encode_to_vec())?;
    writer.finish()?;
    Ok(())
}
