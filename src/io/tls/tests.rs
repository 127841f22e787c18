//! Both ends of a connection in one thread, with the bytes between them cut anywhere.

use super::*;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

/// An authority with certificates it signed, as PEM files that go with it.
struct Papers {
    folder: PathBuf,
}

impl Drop for Papers {
    fn drop(&mut self) {
        // The folder of temporary files is cleaned anyway.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Papers {
    fn new(name: &str) -> Papers {
        let folder = std::env::temp_dir().join(format!("foreshadow-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for temporary files");
        let key = rcgen::KeyPair::generate().expect("random bytes");
        let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = authority.self_signed(&key).expect("signs itself");
        std::fs::write(folder.join("ca.crt"), certificate.pem()).expect("written");
        let issuer = rcgen::Issuer::new(authority, key);
        for name in ["localhost", "alice"] {
            let key = rcgen::KeyPair::generate().expect("random bytes");
            let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let certificate = params.signed_by(&key, &issuer).expect("signed");
            std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).expect("written");
            std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).expect("written");
        }
        Papers { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn files(&self, name: &str) -> Files {
        Files { certificate: self.path(&format!("{name}.crt")), key: self.path(&format!("{name}.key")) }
    }
}

/// Two ends and what each was told.
struct Pair {
    ends: [Channel; 2],
    heard: [Vec<u8>; 2],
}

impl Pair {
    fn new(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Pair {
        let name = ServerName::try_from("localhost").expect("a name");
        let ends = [
            Channel::client(client, name).expect("a configuration that works"),
            Channel::server(server).expect("a configuration that works"),
        ];
        Pair { ends, heard: [Vec::new(), Vec::new()] }
    }

    /// Carries bytes to an end in pieces of the lengths that `cut` gives.
    fn deliver(&mut self, to: usize, bytes: &[u8], cut: &mut impl FnMut() -> usize) -> Result<(), Error> {
        let mut rest = bytes.to_vec();
        while !rest.is_empty() {
            let mut piece: Vec<u8> = rest.drain(..cut().clamp(1, rest.len())).collect();
            let heard = &mut self.heard[to];
            self.ends[to].open(&mut piece, |plain| heard.extend_from_slice(plain))?;
        }
        Ok(())
    }

    /// Carries what is outgoing to and fro until nobody has anything to say.
    fn settle(&mut self, cut: &mut impl FnMut() -> usize) -> Result<(), Error> {
        while let Some(from) = (0..2).find(|end| self.ends[*end].has_outgoing()) {
            let bytes = std::mem::take(self.ends[from].outgoing());
            self.deliver(1 - from, &bytes, cut)?;
        }
        Ok(())
    }

    fn say(&mut self, from: usize, plain: &[u8], cut: &mut impl FnMut() -> usize) -> Result<(), Error> {
        let mut sealed = Vec::new();
        self.ends[from].seal(plain, &mut sealed)?;
        assert!(plain.is_empty() || sealed.len() > plain.len(), "nothing is said in the open");
        self.deliver(1 - from, &sealed, cut)?;
        self.settle(cut)
    }
}

fn whole() -> usize {
    usize::MAX
}

#[test]
fn what_one_end_says_the_other_hears_by_both_versions() {
    let papers = Papers::new("both");
    let client = client(&papers.path("ca.crt"), None).expect("good files");
    for versions in [Versions::Both, Versions::Only12, Versions::Only13] {
        let server =
            server(&papers.files("localhost"), &ClientCertificates::Unasked, versions).expect("good files");
        let mut pair = Pair::new(server, client.clone());
        assert!(!pair.ends[0].ready() && !pair.ends[1].ready());
        pair.settle(&mut whole).expect("a handshake");
        assert!(pair.ends[0].ready() && pair.ends[1].ready(), "{versions:?}");
        let long: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        pair.say(0, b"hello", &mut whole).expect("heard");
        pair.say(1, &long, &mut whole).expect("heard");
        pair.say(0, &long, &mut whole).expect("heard");
        assert_eq!(pair.heard[1], [b"hello", long.as_slice()].concat());
        assert_eq!(pair.heard[0], long);
        assert!(pair.ends.iter().all(|end| end.waiting_bytes() == 0 && end.buffer_bytes() == 0));
        // One end says farewell; the other may still speak.
        pair.ends[0].end();
        pair.settle(&mut whole).expect("a farewell");
        assert!(pair.ends[1].peer_ended() && !pair.ends[1].ended() && !pair.ends[0].peer_ended());
        assert!(pair.ends[1].peer_certificate().is_none(), "none was asked for");
    }
}

/// A client's key is renewed with what it says next.
fn renew_keys(end: &mut Channel) {
    let Side::Client(side) = &mut end.side else { panic!("a client") };
    let UnbufferedStatus { discard, state } = side.step(&mut []);
    assert_eq!(discard, 0);
    let Ok(ConnectionState::WriteTraffic(traffic)) = state else { panic!("nothing else to do") };
    traffic.refresh_traffic_keys().expect("TLS 1.3");
}

#[test]
fn keys_are_renewed_by_either_end_in_the_middle_of_what_is_said() {
    let papers = Papers::new("renewal");
    let client = client(&papers.path("ca.crt"), None).expect("good files");
    let server = server(&papers.files("localhost"), &ClientCertificates::Unasked, Versions::Only13);
    let mut pair = Pair::new(server.expect("good files"), client);
    pair.settle(&mut whole).expect("a handshake");
    let Side::Records(records) = &mut pair.ends[1].side else { panic!("the server was taken over") };
    records.renew_after(3);
    assert_eq!(
        records.suite(),
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256,
        "whatever the client names first"
    );
    let mut told = [Vec::new(), Vec::new()];
    let mut cut = || 700;
    for i in 0..50u8 {
        let text = vec![i; 20_000];
        if i % 5 == 0 {
            renew_keys(&mut pair.ends[0]);
        }
        for from in [0, 1] {
            pair.say(from, &text, &mut cut).expect("heard");
            told[1 - from].extend_from_slice(&text);
            // What fits into a record is sealed where it lies, what does not is not.
            for len in [0, 1, 100, FRAGMENT_BYTES, FRAGMENT_BYTES + 1] {
                let (mut plain, mut sealed) = (text.clone(), Vec::new());
                plain.truncate(len);
                told[1 - from].extend_from_slice(&plain);
                pair.ends[from].seal_all(&mut plain, &mut sealed).expect("ready");
                assert!(plain.is_empty() && (sealed.len() > len || len == 0 && sealed.is_empty()));
                pair.deliver(1 - from, &sealed, &mut cut).expect("heard");
            }
        }
    }
    assert!(pair.heard == told);
    // Again and again without a word it is an attack.
    let mut outcome = Ok(());
    for i in 0..100 {
        renew_keys(&mut pair.ends[0]);
        let mut sealed = Vec::new();
        pair.ends[0].seal(b"", &mut sealed).expect("ready");
        outcome = pair.deliver(1, &sealed, &mut cut);
        if outcome.is_err() {
            assert!(i > 20, "{i}");
            break;
        }
    }
    assert!(outcome.is_err() && pair.ends[1].ended() && pair.ends[1].has_outgoing());
}

#[test]
fn behind_a_handshake_only_whole_records_of_the_right_kinds_are_taken() {
    let papers = Papers::new("kinds");
    let config = client(&papers.path("ca.crt"), None).expect("good files");
    let server = server(&papers.files("localhost"), &ClientCertificates::Unasked, Versions::Only13);
    let server = server.expect("good files");
    let fresh = || {
        let mut pair = Pair::new(server.clone(), config.clone());
        pair.settle(&mut whole).expect("a handshake");
        pair
    };
    for (record, alert) in [
        // Not sealed, too long, shorter than its tag, of nobody.
        (vec![22, 3, 3, 0, 1, 0], true),
        (vec![20, 3, 3, 0, 1, 1], true),
        (vec![23, 3, 3, 0x41, 1], true),
        (vec![23, 3, 3, 0, 3, 1, 2, 3], true),
        ([&[23, 3, 3, 0, 40][..], &[7; 40]].concat(), true),
        // Not whole: waited for.
        (vec![23, 3, 3, 0], false),
        (vec![23, 3, 3, 0, 40, 1], false),
    ] {
        let mut pair = fresh();
        let outcome = pair.deliver(1, &record, &mut whole);
        assert_eq!((outcome.is_err(), pair.ends[1].ended()), (alert, alert), "{record:?}");
        assert_eq!(pair.ends[1].has_outgoing(), alert, "{record:?}");
        assert!(pair.heard[1].is_empty());
        if alert {
            // The client can read the alert, which is sealed.
            let bytes = std::mem::take(pair.ends[1].outgoing());
            let told = pair.deliver(0, &bytes, &mut whole).expect_err("an alert");
            assert!(matches!(told, Error::AlertReceived(_)), "{told:?}");
        }
    }
    // The same record twice is one that was never sealed.
    let mut pair = fresh();
    let mut sealed = Vec::new();
    pair.ends[0].seal(b"once", &mut sealed).expect("ready");
    pair.deliver(1, &sealed, &mut whole).expect("the first time");
    assert_eq!(pair.deliver(1, &sealed, &mut whole), Err(Error::DecryptError));
    assert_eq!(pair.heard[1], b"once");
}

#[test]
fn certificates_of_clients_are_asked_for_and_looked_at() {
    let papers = Papers::new("clients");
    let strangers = Papers::new("strangers");
    let known = client(&papers.path("ca.crt"), Some(&papers.files("alice"))).expect("good files");
    let nobody = client(&papers.path("ca.crt"), None).expect("good files");
    let stranger = client(&papers.path("ca.crt"), Some(&strangers.files("alice"))).expect("good files");
    let roots = papers.path("ca.crt");
    for (clients, nobody_may) in
        [(ClientCertificates::Demanded(roots.clone()), false), (ClientCertificates::Welcome(roots), true)]
    {
        let server = server(&papers.files("localhost"), &clients, Versions::Both).expect("good files");
        let mut pair = Pair::new(server.clone(), known.clone());
        pair.settle(&mut whole).expect("a handshake");
        let shown = pair.ends[1].peer_certificate().expect("shown").to_vec();
        let pem = std::fs::read(papers.path("alice.crt")).expect("there");
        let alice =
            <rustls::pki_types::CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_slice(&pem);
        assert_eq!(shown, alice.expect("a certificate").as_ref());
        assert_eq!(common_name(&shown).as_deref(), Some(&b"alice"[..]));
        assert_eq!(common_name(&shown[1..]), None);
        let mut pair = Pair::new(server.clone(), nobody.clone());
        assert_eq!(pair.settle(&mut whole).is_ok() && pair.ends[1].ready(), nobody_may);
        // One of another authority is worse than none.
        let mut pair = Pair::new(server, stranger.clone());
        assert!(pair.settle(&mut whole).is_err());
        assert!(pair.ends[1].ended() && !pair.ends[1].ready());
        assert!(pair.ends[1].has_outgoing(), "the client is told by an alert");
    }
}

#[test]
fn a_server_of_another_authority_is_not_spoken_to() {
    let (papers, strangers) = (Papers::new("trust"), Papers::new("distrust"));
    let server =
        server(&papers.files("localhost"), &ClientCertificates::Unasked, Versions::Both).expect("good files");
    let client = client(&strangers.path("ca.crt"), None).expect("good files");
    let mut pair = Pair::new(server, client);
    assert!(pair.settle(&mut whole).is_err());
    assert!(!pair.ends[0].ready() && pair.ends[0].ended() && pair.ends[0].has_outgoing());
}

#[test]
fn what_is_no_tls_ends_the_channel_with_an_alert() {
    let papers = Papers::new("plain");
    let server =
        server(&papers.files("localhost"), &ClientCertificates::Unasked, Versions::Both).expect("good files");
    for bytes in [&b"*1\r\n$4\r\nPING\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", b"get a\r\n", &[0xff; 64]] {
        let mut end = Channel::server(server.clone()).expect("works");
        assert!(end.open(&mut bytes.to_vec(), |_| panic!("nothing was said")).is_err());
        assert!(end.ended() && end.has_outgoing() && end.waiting_bytes() == 0);
        end.open(&mut bytes.to_vec(), |_| panic!("nothing was said")).expect("it listens no more");
    }
    // A record that is not complete is waited for, whatever it will be.
    let mut end = Channel::server(server).expect("works");
    end.open(&mut [22, 3, 1, 2], |_| ()).expect("not wrong so far");
    assert!(!end.ended() && end.waiting_bytes() == 4);
}

#[test]
fn wrong_files_are_named_with_what_is_wrong() {
    let papers = Papers::new("wrong");
    let unasked = ClientCertificates::Unasked;
    let words = |files: &Files, clients: &ClientCertificates| {
        server(files, clients, Versions::Both).expect_err("wrong").to_string()
    };
    let path = |name: &str| papers.path(name);
    let good = papers.files("localhost");
    let missing = Files { certificate: path("none.crt"), ..good.clone() };
    assert!(
        words(&missing, &unasked)
            .ends_with("none.crt: cannot be read: No such file or directory (os error 2)")
    );
    let swapped = Files { certificate: good.key.clone(), key: good.key.clone() };
    assert!(words(&swapped, &unasked).contains("localhost.key: holds no certificate in PEM form"));
    let swapped = Files { certificate: good.certificate.clone(), key: good.certificate.clone() };
    assert!(words(&swapped, &unasked).contains("localhost.crt: holds no private key in PEM form"));
    let crossed = Files { key: papers.files("alice").key, ..good.clone() };
    assert!(words(&crossed, &unasked).contains("alice.key do not work together: keys may not be consistent"));
    std::fs::write(path("torn.crt"), "-----BEGIN CERTIFICATE-----\nAAAA").expect("written");
    let torn = Files { certificate: path("torn.crt"), ..good.clone() };
    assert!(words(&torn, &unasked).contains("torn.crt: is no PEM file"), "{}", words(&torn, &unasked));
    std::fs::write(path("odd.crt"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .expect("written");
    let odd = ClientCertificates::Demanded(path("odd.crt"));
    assert!(words(&good, &odd).contains("odd.crt: no certificate of an authority"), "{}", words(&good, &odd));
    let none = ClientCertificates::Welcome(Path::new("/nonexistent").to_owned());
    assert!(words(&good, &none).starts_with("/nonexistent: cannot be read"));
}

#[test]
fn a_replaced_configuration_is_for_those_who_come_later() {
    let papers = Papers::new("shelf");
    let make = |name: &str| {
        server(&papers.files(name), &ClientCertificates::Unasked, Versions::Both).expect("good files")
    };
    let (first, second) = (make("localhost"), make("alice"));
    let shelf = Arc::new(Shelf::new(first.clone()));
    let mut reader = shelf.reader();
    assert!(Arc::ptr_eq(&reader.config(), &first));
    shelf.replace(second.clone());
    assert!(Arc::ptr_eq(&reader.config(), &second) && Arc::ptr_eq(&shelf.reader().config(), &second));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the bytes are cut, and whatever is done to one of them, an end hears what was said or a prefix of it.
    #[test]
    fn bytes_cut_anywhere_and_spoiled_anywhere_bring_the_truth_or_an_error(
        cuts in prop::collection::vec(1usize..3000, 1..20),
        said in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40_000), 1..5),
        spoiled in prop::option::of((0usize..60_000, 1u8..=255)),
        old in any::<bool>(),
    ) {
        let papers = PAPERS.get_or_init(|| Papers::new("cuts"));
        let versions = if old { Versions::Only12 } else { Versions::Only13 };
        let server = server(&papers.files("localhost"), &ClientCertificates::Unasked, versions).expect("good files");
        let client = client(&papers.path("ca.crt"), None).expect("good files");
        let mut pair = Pair::new(server, client);
        let mut at = 0;
        let mut cut = || { at += 1; cuts[at % cuts.len()] };
        pair.settle(&mut cut).expect("a handshake in pieces");
        let mut sealed = Vec::new();
        for plain in &said {
            pair.ends[0].seal(plain, &mut sealed).expect("ready");
        }
        let told = said.concat();
        if let Some((place, flip)) = spoiled && !sealed.is_empty() {
            let place = place % sealed.len();
            sealed[place] ^= flip;
            let outcome = pair.deliver(1, &sealed, &mut cut);
            prop_assert!(told.starts_with(&pair.heard[1]), "never a byte that was not said");
            prop_assert!(outcome.is_err() || pair.heard[1].len() < told.len() || told.is_empty());
        } else {
            pair.deliver(1, &sealed, &mut cut).expect("whole");
            prop_assert_eq!(&pair.heard[1], &told);
            prop_assert_eq!(pair.ends[1].waiting_bytes(), 0);
        }
    }

    /// Strangers' bytes before any handshake end in an error or in waiting for more, within the bound.
    #[test]
    fn a_strangers_bytes_are_refused_or_waited_for(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 20u8..24) {
        let papers = PAPERS.get_or_init(|| Papers::new("cuts"));
        let config = CONFIG.get_or_init(|| {
            server(&papers.files("localhost"), &ClientCertificates::Unasked, Versions::Both).expect("good files")
        });
        let mut end = Channel::server(config.clone()).expect("works");
        let mut record = vec![kind, 3, 3];
        record.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        record.extend_from_slice(&bytes);
        for mut piece in [record.clone(), record, bytes] {
            let _ = end.open(&mut piece, |_| panic!("nothing was said"));
            prop_assert!(end.waiting_bytes() <= WAITING_BYTES_MAX && !end.ready());
        }
    }
}

static PAPERS: std::sync::OnceLock<Papers> = std::sync::OnceLock::new();
static CONFIG: std::sync::OnceLock<Arc<ServerConfig>> = std::sync::OnceLock::new();
