//! Real handshakes: whom box and cloud accept, and the reason of each refusal.

use super::identity::{Generation, Spki, TlsKey};
use super::tls::{self, KnownBoxes, Pins, Refusal, Refusals, Standing};
use crate::base::reason::Counters;
use rustls::pki_types::{CertificateDer, ServerName};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Known(Spki, Arc<Mutex<Standing>>);

impl KnownBoxes for Known {
    fn standing(&self, identity: &Spki) -> Standing {
        if *identity == self.0 { *self.1.lock().expect("not poisoned") } else { Standing::Unknown }
    }
}

/// One cloud with two issuers, and one box that knows them.
struct Scene {
    issuers: [TlsKey; 2],
    serving: TlsKey,
    identity: TlsKey,
    seen_by_box: Refusals,
    seen_by_cloud: Refusals,
    counters: Counters,
}

impl Scene {
    fn new() -> Self {
        let key = || TlsKey::generate().expect("a key");
        let counters = Counters::default();
        Self {
            issuers: [key(), key()],
            serving: key(),
            identity: key(),
            seen_by_box: Refusals::new(counters.clone()),
            seen_by_cloud: Refusals::new(counters.clone()),
            counters,
        }
    }

    fn pins(&self, generation: u64) -> Pins {
        let issuers = self.issuers.iter().map(TlsKey::spki).collect();
        Pins { issuers, version: 1, generation: Generation(generation) }
    }

    fn server(&self, issuer: &TlsKey, generation: u64, standing: Standing) -> Arc<rustls::ServerConfig> {
        let certificate = issuer.issue(&self.serving, Generation(generation)).expect("a certificate");
        let boxes = Arc::new(Known(self.identity.spki(), Arc::new(Mutex::new(standing))));
        tls::cloud_server(&self.serving, certificate, boxes, self.seen_by_cloud.clone())
    }

    /// One server whose mind about the box can change.
    fn server_asking(&self, standing: Arc<Mutex<Standing>>) -> Arc<rustls::ServerConfig> {
        let certificate = self.issuers[0].issue(&self.serving, Generation(1)).expect("a certificate");
        let boxes = Arc::new(Known(self.identity.spki(), standing));
        tls::cloud_server(&self.serving, certificate, boxes, self.seen_by_cloud.clone())
    }

    fn client(&self, generation: u64) -> Arc<rustls::ClientConfig> {
        tls::box_client(&self.identity, self.pins(generation), self.seen_by_box.clone()).expect("a client")
    }
}

/// Shakes hands and sends one byte each way, so that a refusal by the later side is seen too.
async fn shake(
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
) -> (io::Result<()>, io::Result<bool>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(tls::SERVER_NAME).expect("a name");
    let dial = async {
        let mut stream = tokio_rustls::TlsConnector::from(client).connect(name, near).await?;
        stream.write_all(b"?").await?;
        stream.read_u8().await.map(drop)
    };
    let serve = async {
        let mut stream = tokio_rustls::TlsAcceptor::from(server).accept(far).await?;
        let full = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Full);
        stream.read_u8().await?;
        stream.write_all(b"!").await?;
        stream.shutdown().await?;
        Ok(full)
    };
    tokio::join!(dial, serve)
}

#[tokio::test]
async fn both_issuers_and_later_generations_are_accepted() {
    let scene = Scene::new();
    for issuer in &scene.issuers {
        for generation in [3, 4, u64::MAX >> 1] {
            let (dialled, served) = shake(scene.client(3), scene.server(issuer, generation, Standing::Known)).await;
            dialled.expect("the box accepts the cloud");
            assert!(served.expect("the cloud accepts the box"));
        }
    }
}

#[tokio::test]
async fn another_issuer_and_a_lower_generation_are_refused_by_the_box() {
    let scene = Scene::new();
    let other = TlsKey::generate().expect("a key");
    let (dialled, _) = shake(scene.client(1), scene.server(&other, 9, Standing::Known)).await;
    assert!(dialled.is_err());
    assert_eq!(scene.seen_by_box.take(), Some(Refusal::WrongIssuer));
    let (dialled, _) = shake(scene.client(3), scene.server(&scene.issuers[0], 2, Standing::Known)).await;
    assert!(dialled.is_err());
    assert_eq!(scene.seen_by_box.take(), Some(Refusal::LowerGeneration));
    assert_eq!(scene.counters.total("tls-wrong-issuer"), 1);
    assert_eq!(scene.counters.total("tls-lower-generation"), 1);
}

/// Presents a certificate that it has no key for: rustls would notice, so it signs by hand.
#[derive(Debug)]
struct Thief(Arc<rustls::sign::CertifiedKey>);

impl Thief {
    fn new(certificate: CertificateDer<'static>) -> Arc<Self> {
        let own = TlsKey::generate().expect("a key").private();
        let key = rustls::crypto::ring::sign::any_ecdsa_type(&own).expect("a key that signs");
        Arc::new(Self(Arc::new(rustls::sign::CertifiedKey::new(vec![certificate], key))))
    }
}

impl rustls::server::ResolvesServerCert for Thief {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl rustls::client::ResolvesClientCert for Thief {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_serving_certificate_without_its_key_is_refused() {
    // Certificates are public: whoever copied one from the wire has no key to it.
    let scene = Scene::new();
    let genuine = scene.issuers[0].issue(&scene.serving, Generation(1)).expect("a certificate");
    let mut server = (*scene.server(&scene.issuers[0], 1, Standing::Known)).clone();
    server.cert_resolver = Thief::new(genuine.clone());
    let (dialled, _) = shake(scene.client(1), Arc::new(server)).await;
    assert!(dialled.expect_err("refused").to_string().contains("BadSignature"));
    // Nor may it pair.
    let mut server = (*tls::pairing_server(&scene.serving, genuine.clone())).clone();
    server.cert_resolver = Thief::new(genuine);
    let (dialled, _) = shake(tls::pairing_client(), Arc::new(server)).await;
    assert!(dialled.expect_err("refused").to_string().contains("BadSignature"));
}

#[tokio::test]
async fn a_box_certificate_without_its_key_is_refused() {
    let scene = Scene::new();
    let mut client = (*scene.client(1)).clone();
    client.client_auth_cert_resolver = Thief::new(scene.identity.self_signed().expect("a certificate"));
    let (_, served) = shake(Arc::new(client), scene.server(&scene.issuers[0], 1, Standing::Known)).await;
    assert!(served.expect_err("refused").to_string().contains("BadSignature"));
}

#[tokio::test]
async fn unknown_boxes_are_refused_and_revoked_ones_complete() {
    let scene = Scene::new();
    let (_, served) = shake(scene.client(1), scene.server(&scene.issuers[0], 1, Standing::Unknown)).await;
    assert!(served.is_err());
    assert_eq!(scene.seen_by_cloud.take(), Some(Refusal::UnknownBox));
    let (dialled, served) = shake(scene.client(1), scene.server(&scene.issuers[0], 1, Standing::Revoked)).await;
    dialled.expect("completes");
    served.expect("completes, to be told REVOKE");
}

#[tokio::test]
async fn a_box_without_a_client_certificate_is_refused() {
    let scene = Scene::new();
    // Speaks the right protocol: nothing but the certificate is missing.
    let mut client = (*tls::pairing_client()).clone();
    client.alpn_protocols = vec![tls::ALPN_SESSION.to_vec()];
    let (dialled, served) = shake(Arc::new(client), scene.server(&scene.issuers[0], 1, Standing::Known)).await;
    assert!(dialled.is_err());
    assert!(served.expect_err("refused").to_string().contains("no certificates"));
}

#[tokio::test]
async fn pairing_and_sessions_do_not_speak_with_each_other() {
    let scene = Scene::new();
    let (dialled, served) = shake(tls::pairing_client(), scene.server(&scene.issuers[0], 1, Standing::Known)).await;
    assert!(dialled.is_err() && served.is_err());
    let certificate = scene.issuers[0].issue(&scene.serving, Generation(1)).expect("a certificate");
    let (dialled, served) = shake(scene.client(1), tls::pairing_server(&scene.serving, certificate)).await;
    assert!(dialled.is_err() && served.is_err());
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let scene = Scene::new();
    let client = scene.client(1);
    let known = scene.server(&scene.issuers[0], 1, Standing::Known);
    for _ in 0..3 {
        let (dialled, served) = shake(client.clone(), known.clone()).await;
        dialled.expect("accepted");
        assert!(served.expect("accepted"), "every handshake is a full one");
    }
    // The same client, once its key is unknown: there is no ticket that lets it in.
    let (_, served) = shake(client, scene.server(&scene.issuers[0], 1, Standing::Unknown)).await;
    assert!(served.is_err());
}

#[tokio::test]
async fn a_revoked_box_cannot_resume_a_session() {
    // A client that keeps every ticket, against our server: resumed, nobody would ask for its certificate again.
    let scene = Scene::new();
    let mut client = (*scene.client(1)).clone();
    client.resumption = rustls::client::Resumption::in_memory_sessions(16);
    let client = Arc::new(client);
    let standing = Arc::new(Mutex::new(Standing::Known));
    let server = scene.server_asking(standing.clone());
    for _ in 0..3 {
        let (dialled, served) = shake(client.clone(), server.clone()).await;
        dialled.expect("accepted");
        assert!(served.expect("accepted"), "a full handshake");
    }
    *standing.lock().expect("not poisoned") = Standing::Unknown;
    let (_, served) = shake(client, server).await;
    assert!(served.is_err());
    assert_eq!(scene.seen_by_cloud.take(), Some(Refusal::UnknownBox));
}

#[tokio::test]
async fn a_box_does_not_resume_with_a_cloud_that_gives_tickets() {
    // Resumed, the box would not look at the certificate again, whose issuer may have been replaced meanwhile.
    let scene = Scene::new();
    let mut server = (*scene.server(&scene.issuers[0], 1, Standing::Known)).clone();
    server.send_tls13_tickets = 2;
    server.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
    let (client, server) = (scene.client(1), Arc::new(server));
    for _ in 0..3 {
        let (dialled, served) = shake(client.clone(), server.clone()).await;
        dialled.expect("accepted");
        assert!(served.expect("accepted"), "a full handshake");
    }
}
