//! Runs the examples against each other: each reads what another one writes. They are compiled in as modules, which
//! needs no process and works whatever part of the tests is selected.

use std::{
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use dnstap_proto::{
    Dnstap,
    frame_streams::{DNSTAP_CONTENT_TYPE, Reader},
    message::Type,
    prost::Message as _,
};

/// Time that a side waits for the other one, so that a stuck handshake fails and does not hang.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));

const README: &str = include_str!("../README.md");

#[test]
fn the_file_that_write_file_writes_is_what_read_file_reads() {
    let mut file = Vec::new();
    write_file::write(&mut file).unwrap();
    let counts = read_file::count(&file[..]).unwrap();
    assert_eq!(
        counts.into_iter().collect::<Vec<_>>(),
        [(Type::ClientQuery as i32, 1)]
    );

    let mut frames = Reader::new(&file[..], DNSTAP_CONTENT_TYPE).unwrap();
    let dnstap = Dnstap::decode(frames.next().unwrap().unwrap().payload).unwrap();
    assert_eq!(dnstap.identity(), b"ns1");
    let message = dnstap.message.unwrap();
    assert_eq!(message.query_address(), [192, 0, 2, 1]);
    assert!(message.query_time_sec() > 1_700_000_000);
    assert_eq!(message.query_message().len(), 17);
}

#[test]
fn a_cut_file_is_counted_up_to_the_cut() {
    let mut file = Vec::new();
    write_file::write(&mut file).unwrap();
    file.truncate(file.len() - 12);
    assert_eq!(read_file::count(&file[..]).unwrap().len(), 1);
}

#[test]
fn what_is_sent_over_a_unix_socket_is_received() {
    let (sender, receiver) = UnixStream::pair().unwrap();
    for socket in [&sender, &receiver] {
        socket.set_read_timeout(PATIENCE).unwrap();
    }
    let sent = thread::spawn(|| unix_socket::send(sender).map_err(|error| error.to_string()));
    let received = unix_socket::receive(receiver).unwrap();
    assert_eq!(types(&received), [Type::ClientQuery, Type::ClientResponse]);
    assert_eq!(sent.join().unwrap(), Ok(()));
}

#[test]
fn what_is_sent_over_tcp_is_received_with_a_handshake_and_without() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for send in [tcp::send, tcp::send_unidirectional] {
        let sent = thread::spawn(move || {
            send(TcpStream::connect(address).unwrap()).map_err(|error| error.to_string())
        });
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(PATIENCE).unwrap();
        let received = tcp::receive(socket).unwrap();
        assert_eq!(types(&received), [Type::ForwarderQuery]);
        assert_eq!(sent.join().unwrap(), Ok(()));
    }
}

/// The program is also run as a test of the documentation: the README is the crate's page.
#[test]
fn the_first_program_of_the_readme_is_write_file_in_twenty_lines() {
    let example = include_str!("../examples/write_file.rs");
    let (_, program) = example.split_once("\n\n").unwrap(); // after the line that describes it
    let first = README.split("```rust\n").nth(1).unwrap();
    let (first, _) = first.split_once("```").unwrap();
    assert_eq!(first, program);
    let lines = first.lines().filter(|line| !line.is_empty()).count();
    assert!(lines <= 20, "{lines} lines");
}

fn types(messages: &[Dnstap]) -> Vec<Type> {
    let messages = messages.iter().filter_map(|dnstap| dnstap.message.as_ref());
    messages.map(dnstap_proto::Message::r#type).collect()
}

macro_rules! examples {
    ($($name:ident $path:literal)*) => {$(
        #[path = $path]
        #[expect(dead_code, reason = "a program of its own, whose `main` is not called here")]
        mod $name;
    )*};
}

examples! {
    read_file "../examples/read_file.rs"
    tcp "../examples/tcp.rs"
    unix_socket "../examples/unix_socket.rs"
    write_file "../examples/write_file.rs"
}
