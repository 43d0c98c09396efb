//! Counts the messages of dnstap files by type: `cargo run -p dnstap-proto --example count -- FILE...`

use std::{collections::BTreeMap, env, error::Error, fs::File};

use dnstap_proto::{
    Dnstap,
    frame_streams::{DNSTAP_CONTENT_TYPE, ReadError, Reader},
    message,
    prost::Message as _,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut counts = BTreeMap::<i32, u64>::new();
    for path in env::args_os().skip(1) {
        for frame in Reader::new(File::open(&path)?, DNSTAP_CONTENT_TYPE)? {
            match frame {
                Ok(frame) => {
                    let dnstap = Dnstap::decode(frame.payload)?;
                    let r#type = dnstap.message.map_or(0, |message| message.r#type);
                    *counts.entry(r#type).or_default() += 1;
                }
                // A file that was cut, or is still being written, counts up to there.
                Err(cut @ ReadError::Unfinished { .. }) => eprintln!("{}: {cut}", path.display()),
                Err(error) => return Err(error.into()),
            }
        }
    }
    for (number, count) in counts {
        let name =
            message::Type::try_from(number).map_or("(unknown)", |r#type| r#type.as_str_name());
        println!("{count:>10} {name}");
    }
    Ok(())
}
