//! Counts the messages of dnstap files by type: `cargo run -p dnstap-proto --example read_file -- FILE...`

use std::{collections::BTreeMap, env, error::Error, fs::File, io::Read};

use dnstap_proto::{
    Dnstap,
    frame_streams::{DNSTAP_CONTENT_TYPE, ReadError, Reader},
    message,
    prost::Message as _,
};

fn main() -> Result<(), Box<dyn Error>> {
    for path in env::args_os().skip(1) {
        println!("{}", path.display());
        for (number, messages) in count(File::open(&path)?)? {
            let known = message::Type::try_from(number);
            let name = known.map_or("(unknown)", |r#type| r#type.as_str_name());
            println!("{messages:>10} {name}");
        }
    }
    Ok(())
}

/// Counts the messages of a file by the number of their type.
pub(crate) fn count(file: impl Read) -> Result<BTreeMap<i32, u64>, Box<dyn Error>> {
    let mut counts = BTreeMap::new();
    for frame in Reader::new(file, DNSTAP_CONTENT_TYPE)? {
        match frame {
            Ok(frame) => {
                let dnstap = Dnstap::decode(frame.payload)?;
                let r#type = dnstap.message.map_or(0, |message| message.r#type);
                *counts.entry(r#type).or_default() += 1;
            }
            // A file that was cut, or is still being written, counts up to its last whole frame.
            Err(cut @ ReadError::Unfinished { .. }) => eprintln!("{cut}"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(counts)
}
