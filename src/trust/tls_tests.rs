//! Real handshakes: whom box and cloud accept, and the reason of each refusal.

use super::identity::{Generation, Spki, TlsKey};
use super::tls::{self, KnownBoxes, Pins, Refusal, Refusals, Standing};
use crate::base::reason::Counters;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Known(Spki, Standing);

impl KnownBoxes for Known {
    fn standing(&self, identity: &Spki) -> Standing {
        if *identity == self.0 { self.1 } else { Standing::Unknown }
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

#[tokio::test]
async fn a_serving_certificate_without_its_key_is_refused() {
    // The certificate is public: whoever copied it from the wire has no key to it.
    let scene = Scene::new();
    let thief = TlsKey::generate().expect("a key");
    let certificate = scene.issuers[0].issue(&thief, Generation(1)).expect("a certificate");
    let genuine = scene.issuers[0].issue(&scene.serving, Generation(1)).expect("a certificate");
    assert_ne!(certificate, genuine);
    let boxes = Arc::new(Known(scene.identity.spki(), Standing::Known));
    let stolen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        tls::cloud_server(&thief, genuine, boxes, Refusals::default())
    }));
    // rustls itself refuses to serve a certificate with another key.
    assert!(stolen.is_err());
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
async fn a_box_without_a_certificate_and_another_protocol_are_refused() {
    let scene = Scene::new();
    // A pairing client has no certificate and speaks another protocol.
    let (dialled, served) = shake(tls::pairing_client(), scene.server(&scene.issuers[0], 1, Standing::Known)).await;
    assert!(dialled.is_err() && served.is_err());
    let certificate = scene.serving.self_signed().expect("a certificate");
    let (dialled, _) = shake(scene.client(1), tls::pairing_server(&scene.serving, certificate)).await;
    assert!(dialled.is_err());
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
