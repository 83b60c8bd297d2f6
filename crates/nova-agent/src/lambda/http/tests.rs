//! The parser over real sockets: what clients send, and what hostile ones do.
use super::*;
use std::net::{Ipv4Addr, TcpListener};

/// A client's socket and the server's end of it.
fn pair() -> (TcpStream, Connection) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    (client, Connection::new(listener.accept().expect("a connection").0))
}

/// What is read of these bytes, sent and then closed, with bodies up to `limit`.
fn read(bytes: &[u8], limit: usize) -> Result<(Head, Body), Broken> {
    let (mut client, mut connection) = pair();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || {
        // Fails where the server hangs up first.
        let _ = client.write_all(&bytes);
        let _ = client.shutdown(std::net::Shutdown::Write);
        client
    });
    let head = connection.read_head()?;
    let body = connection.read_body(&head, limit);
    drop(writer.join());
    Ok((head, body?))
}

fn whole(bytes: &[u8]) -> (Vec<u8>, Trailers) {
    match read(bytes, 100).expect("a request").1 {
        Body::Whole(body, trailers) => (body, trailers),
        Body::TooLarge => panic!("too large"),
    }
}

#[test]
fn bodies_come_with_a_length_or_in_chunks() {
    assert_eq!(whole(b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").0, b"abc");
    assert_eq!(whole(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").0, b"");
    let chunked =
        b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\
        Lambda-Runtime-Function-Error-Type: Function.Bad\r\n\
        Lambda-Runtime-Function-Error-Body: e30=\r\n\r\n";
    let (body, trailers) = whole(chunked);
    assert_eq!(body, b"abcde");
    let expected = Trailers { error_type: Some("Function.Bad".into()), error_body: b"{}".to_vec() };
    assert_eq!(trailers, expected);
}

#[test]
fn of_what_came_at_once_nothing_is_moved_for_a_chunk() {
    let (mut client, mut connection) = pair();
    let body = "1\r\nx\r\n".repeat(100);
    let request = format!("POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    let head = connection.read_head().unwrap();
    let Body::Whole(bytes, _) = connection.read_body(&head, 1000).unwrap() else { panic!() };
    assert_eq!(bytes, [b'x'; 100]);
    assert_eq!((connection.buffer.len(), connection.used), (request.len(), request.len()));
}

#[test]
fn two_requests_may_share_a_connection() {
    let (mut client, mut connection) = pair();
    client
        .write_all(b"POST /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nxGET /b HTTP/1.1\r\n\r\n")
        .expect("sent");
    let first = connection.read_head().expect("a head");
    assert_eq!(connection.peer(), Peer::Talking);
    connection.read_body(&first, 10).expect("a body");
    assert_eq!(connection.read_head().expect("a head").path, "/b");
    assert_eq!(connection.peer(), Peer::Waiting);
    drop(client);
    assert_eq!(connection.peer(), Peer::Gone);
}

#[test]
fn a_body_over_the_limit_is_dropped_and_said_to_be() {
    let long =
        [b"POST /a HTTP/1.1\r\nContent-Length: 101\r\n\r\n".as_slice(), &[b'x'; 101]].concat();
    assert!(matches!(read(&long, 100), Ok((_, Body::TooLarge))));
    let chunk = [b"65\r\n".as_slice(), &[b'x'; 101], b"\r\n0\r\n\r\n"].concat();
    let chunked =
        [b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(), &chunk].concat();
    assert!(matches!(read(&chunked, 100), Ok((_, Body::TooLarge))));
    let endless = b"POST /a HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n";
    assert!(matches!(read(endless, 100), Ok((_, Body::TooLarge))));
}

#[test]
fn nonsense_is_refused() {
    let head = "POST /a HTTP/1.1\r\n";
    for bytes in [
        "hello\r\n\r\n".to_owned(),
        "\u{0}\u{1}\u{2}".to_owned(),
        format!("{head}Content-Length: -1\r\n\r\n"),
        format!("{head}Content-Length: 1, 1\r\n\r\nx"),
        format!("{head}Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
        format!("{head}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx"),
        format!("{head}Transfer-Encoding: gzip\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nxyz\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\nabc"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\nffffffffffffffff\r\n"),
        format!("{head}{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1)),
        format!("{head}a: {}\r\n\r\n", "b".repeat(2 * HEAD_MAX_BYTES)),
    ] {
        let start = &bytes[..bytes.len().min(60)];
        assert!(matches!(read(bytes.as_bytes(), 100), Err(Broken::Malformed(_))), "{start:?}");
    }
}

#[test]
fn a_request_that_ends_early_is_truncated() {
    for bytes in [
        &b"POST /a HT"[..],
        b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nab",
        b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
    ] {
        assert!(matches!(read(bytes, 100), Err(Broken::Truncated)));
    }
    assert!(matches!(read(b"", 100), Err(Broken::Closed)));
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on() {
    let (mut client, mut connection) = pair();
    client
        .write_all(b"POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .expect("sent");
    let server = std::thread::spawn(move || {
        let head = connection.read_head().expect("a head");
        connection.read_body(&head, 100).expect("a body")
    });
    let mut said = [0; 25];
    client.read_exact(&mut said).expect("an answer");
    assert_eq!(&said, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"ok").expect("sent");
    assert!(matches!(server.join().expect("served"), Body::Whole(body, _) if body == b"ok"));
}

#[test]
fn a_body_that_is_not_asked_for_ends_the_connection() {
    let (mut client, mut connection) = pair();
    client
        .write_all(b"POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .expect("sent");
    let head = connection.read_head().expect("a head");
    assert!(matches!(connection.read_body(&head, 1), Ok(Body::TooLarge)));
    assert!(connection.is_lost());
}

#[test]
fn what_a_dead_client_has_not_read_is_known() {
    let (client, mut connection) = pair();
    let answer = Response { status: 200, content_type: "", headers: &[], body: b"event" };
    connection.respond(&answer, true).expect("sent");
    drop(client);
    assert!(matches!(connection.read_head(), Err(Broken::Reset)));

    let (mut client, mut connection) = pair();
    connection.respond(&answer, true).expect("sent");
    let mut read = vec![0; 400];
    let mut length = 0;
    while !read[..length].ends_with(b"event") {
        length += client.read(&mut read[length..]).expect("bytes");
    }
    drop(client);
    assert!(matches!(connection.read_head(), Err(Broken::Closed)));
}

#[test]
fn a_header_cannot_begin_another() {
    let headers = [("X-Name", "a\r\nX-Evil: 1"), ("X-Empty", "")];
    let response =
        Response { status: 200, content_type: "text/plain", headers: &headers, body: b"" };
    let head = String::from_utf8(head_of(&response, false)).expect("text");
    assert!(head.contains("X-Name: a  X-Evil: 1\r\n") && !head.contains("X-Empty"));
}
