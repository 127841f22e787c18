/// What the example of `foreshadow::client` talks to: a server of one connection that knows PUT, GET and INVALIDATE and ends
/// with it. Answers its address.
fn small_server() -> String {
    use foreshadow::wire::native::frame::{
        HEADER_BYTES, Header, MAGIC_REPLY, MAGIC_REQUEST, Opcode, Request, Status,
    };
    use std::io::{Read, Write};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        let mut items = std::collections::HashMap::<Vec<u8>, Vec<u8>>::new();
        let (mut stream, _) = listener.accept().expect("the example connects");
        let mut head = [0; HEADER_BYTES];
        while stream.read_exact(&mut head).is_ok() {
            let header = Header::read(MAGIC_REQUEST, &head).expect("a request").expect("whole");
            let mut body = vec![0; header.body_len as usize];
            stream.read_exact(&mut body).expect("a body");
            // A meta block without end or flags, of version 1.
            let mut meta = [0; 20];
            meta[8] = 1;
            let (status, said) = match Request::decode(&header, &body).expect("one of this protocol") {
                Request::Hello(_) => (Status::OK, vec![0; 32]),
                Request::Put(put) => {
                    items.insert(put.key.to_vec(), put.value.to_vec());
                    (Status::OK, meta[8..16].to_vec())
                }
                Request::Get(key) => match items.get(key) {
                    Some(value) => (Status::OK, [&meta, value.as_slice()].concat()),
                    None => (Status::NOT_FOUND, Vec::new()),
                },
                Request::Invalidate { key, .. } => match items.remove(key) {
                    Some(_) => (Status::OK, Vec::new()),
                    None => (Status::NOT_FOUND, Vec::new()),
                },
                request => {
                    assert_eq!(request.opcode(), Opcode::Map, "nothing else is asked");
                    (Status::UNSUPPORTED, Vec::new())
                }
            };
            let reply = Header {
                magic: MAGIC_REPLY,
                body_len: said.len() as u32,
                key_len_or_status: status.0,
                detail: 0,
                ..header
            };
            stream.write_all(&[&reply.to_bytes(), said.as_slice()].concat()).expect("the example reads");
        }
    });
    address
}
