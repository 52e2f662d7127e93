//! The local page: one live picture per camera, and metrics. No login, therefore loopback only and off unless asked for.
//!
//! Belongs here: HTTP and WebSocket. Does not belong here: opening and fanning out (see [`super::live`]). Every request
//! must name this listener in `Host`, and a WebSocket in `Origin` too: a page of somebody else that the same browser
//! shows must not reach it by a name that resolves to 127.0.0.1.
//!
//! | path | what |
//! |---|---|
//! | `/`, `/page.js`, `/page.css` | the page |
//! | `/api/cameras` | JSON list of `{id, name, connected}` |
//! | `/api/live/{camera}` | WebSocket: text = JSON note (`state`, `name`, `mime`, `age_ms`), binary = initialisation or fragment |
//! | `/metrics` | Prometheus text |

use crate::base::ids::CameraId;
use crate::base::reason::Coded;
use crate::base::tasks::Tasks;
use crate::cloud::live::{Hub, View};
use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

const HTML: &str = include_str!("index.html");
const JS: &str = include_str!("page.js");
const CSS: &str = include_str!("page.css");

/// Media Source Extensions play from a `blob:` address of the page itself; nothing else comes from elsewhere.
const POLICY: &str = "default-src 'self'; media-src 'self' blob:; object-src 'none'; base-uri 'none'; \
                      frame-ancestors 'none'; form-action 'none'";

/// Pictures that are watched at one time; a browser shows one per camera.
const MAX_VIEWERS: usize = 64;

/// A viewer that takes nothing for this long is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// A camera for the page.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Camera {
    /// Which.
    pub id: CameraId,
    /// Its name, or its id while the name is not known.
    pub name: String,
    /// Whether its box has a session.
    pub connected: bool,
}

/// What the page shows, asked for on each request.
pub trait Source: Send + Sync {
    /// All cameras that ever sent something.
    fn cameras(&self) -> Vec<Camera>;
    /// Prometheus text.
    fn metrics(&self) -> String;
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// Not on this machine.
    #[error("page address {0} is not on this machine: the page has no login, use 127.0.0.1:PORT or [::1]:PORT")]
    NotLoopback(SocketAddr),
    /// The address cannot be taken.
    #[error("the page cannot listen on {address}: choose another port with --page")]
    Listen { address: SocketAddr, source: std::io::Error },
}

impl Coded for PageError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotLoopback(_) => "page-not-loopback",
            Self::Listen { .. } => "page-listen",
        }
    }
}

/// The listening page.
pub struct Page {
    listener: TcpListener,
    address: SocketAddr,
}

struct Shared {
    hub: Hub,
    source: Arc<dyn Source>,
    port: u16,
    viewers: AtomicUsize,
    tasks: Tasks,
}

impl Page {
    /// Takes the address.
    ///
    /// # Errors
    /// `NotLoopback`, `Listen`.
    pub async fn bind(address: SocketAddr) -> Result<Self, PageError> {
        if !address.ip().is_loopback() {
            return Err(PageError::NotLoopback(address));
        }
        let listen = |source| PageError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop.
    pub async fn run(self, hub: Hub, source: Arc<dyn Source>, tasks: Tasks) {
        let stop = tasks.stopping();
        let port = self.address.port();
        let app = router(Arc::new(Shared { hub, source, port, viewers: AtomicUsize::new(0), tasks }));
        let served = axum::serve(self.listener, app).with_graceful_shutdown(async move { stop.cancelled().await });
        if let Err(error) = served.await {
            tracing::error!(%error, "the page stopped");
        }
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let asset =
        |kind: &'static str, text: &'static str| get(move || async move { ([(header::CONTENT_TYPE, kind)], text) });
    Router::new()
        .route("/", asset("text/html; charset=utf-8", HTML))
        .route("/page.js", asset("text/javascript; charset=utf-8", JS))
        .route("/page.css", asset("text/css; charset=utf-8", CSS))
        .route("/api/cameras", get(cameras))
        .route("/api/live/{camera}", get(live))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Refuses requests that were meant for another name, and adds the headers that every answer has.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if !is_for_us(request.headers(), shared.port) {
        return (StatusCode::MISDIRECTED_REQUEST, "this page answers to 127.0.0.1 and localhost only\n")
            .into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn is_for_us(headers: &HeaderMap, port: u16) -> bool {
    let ours = |authority: &str| {
        ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| {
            authority.strip_prefix(name).is_some_and(|rest| {
                rest.strip_prefix(':').map_or(rest.is_empty() && port == 80, |text| text.parse() == Ok(port))
            })
        })
    };
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).is_some_and(ours);
    // Browsers send Origin with every WebSocket; other programs need not.
    let origin = headers
        .get(header::ORIGIN)
        .is_none_or(|value| value.to_str().ok().and_then(|origin| origin.strip_prefix("http://")).is_some_and(ours));
    host && origin
}

async fn cameras(State(shared): State<Arc<Shared>>) -> Response {
    let source = shared.source.clone();
    match tokio::task::spawn_blocking(move || source.cameras()).await {
        Ok(list) => match serde_json::to_string(&list) {
            Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        },
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let source = shared.source.clone();
    match tokio::task::spawn_blocking(move || source.metrics()).await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn live(State(shared): State<Arc<Shared>>, Path(camera): Path<String>, upgrade: WebSocketUpgrade) -> Response {
    let Ok(camera) = camera.parse::<CameraId>() else { return StatusCode::NOT_FOUND.into_response() };
    if shared.viewers.fetch_add(1, Ordering::Relaxed) >= MAX_VIEWERS {
        shared.viewers.fetch_sub(1, Ordering::Relaxed);
        return (StatusCode::SERVICE_UNAVAILABLE, "too many viewers\n").into_response();
    }
    let slot = ViewerSlot(shared.clone());
    upgrade.max_message_size(1024).on_upgrade(move |socket| async move {
        // Hyper runs this; the tracker must know it, so that shutdown waits for it.
        let tasks = slot.0.tasks.clone();
        let _ = tasks.spawn("viewer", view(slot, camera, socket)).await;
    })
}

struct ViewerSlot(Arc<Shared>);

impl Drop for ViewerSlot {
    fn drop(&mut self) {
        self.0.viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn view(slot: ViewerSlot, camera: CameraId, mut socket: WebSocket) {
    let stop = slot.0.tasks.stopping();
    let hub = slot.0.hub.clone();
    // Asks the database whose camera it is.
    let Ok(mut viewer) = tokio::task::spawn_blocking(move || hub.watch(camera)).await else { return };
    if send(&mut socket, note(&serde_json::json!({ "state": "waiting" }))).await.is_none() {
        return;
    }
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => break,
            incoming = socket.recv() => match incoming {
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => continue,
            },
            next = viewer.next() => next,
        };
        let sent = match next {
            None => break,
            Some(View::State(word)) => send(&mut socket, note(&serde_json::json!({ "state": word }))).await,
            Some(View::Name(name)) => send(&mut socket, note(&serde_json::json!({ "name": name }))).await,
            Some(View::Init { mime, bytes }) => {
                let start = note(&serde_json::json!({ "mime": mime }));
                match send(&mut socket, start).await {
                    Some(()) => send(&mut socket, Message::Binary(bytes)).await,
                    None => None,
                }
            }
            Some(View::Media { bytes, age }) => {
                let age = note(&serde_json::json!({ "age_ms": age.map(|age| age.as_millis()) }));
                match send(&mut socket, age).await {
                    Some(()) => send(&mut socket, Message::Binary(bytes)).await,
                    None => None,
                }
            }
        };
        if sent.is_none() {
            break;
        }
    }
}

fn note(value: &serde_json::Value) -> Message {
    Message::Text(value.to_string().into())
}

async fn send(socket: &mut WebSocket, message: Message) -> Option<()> {
    tokio::time::timeout(PATIENCE, socket.send(message)).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_requests_for_this_listener_are_answered() {
        for good in [
            &[("host", "127.0.0.1:8080")][..],
            &[("host", "localhost:8080"), ("origin", "http://localhost:8080")],
            &[("host", "[::1]:8080")],
        ] {
            assert!(is_for_us(&headers(good), 8080), "{good:?}");
        }
        for bad in [
            &[][..],
            &[("host", "evil.example:8080")],
            &[("host", "127.0.0.1.evil.example:8080")],
            &[("host", "localhost:8081")],
            &[("host", "localhost")],
            &[("host", "127.0.0.1:8080"), ("origin", "http://evil.example")],
            &[("host", "127.0.0.1:8080"), ("origin", "null")],
        ] {
            assert!(!is_for_us(&headers(bad), 8080), "{bad:?}");
        }
    }

    #[test]
    fn the_page_names_no_other_host() {
        for text in [HTML, JS, CSS] {
            let text = text.replace("${scheme}://${location.host}", "");
            assert!(!text.contains("://") && !text.contains("javascript:") && !text.contains(" style="), "{text}");
        }
        assert!(!HTML.contains("<script>") && !HTML.contains("<style"));
    }

    struct Nothing;

    impl Source for Nothing {
        fn cameras(&self) -> Vec<Camera> {
            vec![Camera { id: CameraId([5; 16]), name: "<b>".into(), connected: true }]
        }

        fn metrics(&self) -> String {
            "mvb_cloud_locked 1\n".into()
        }
    }

    async fn ask(address: SocketAddr, path: &str, more: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\n{more}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = vec![0; 64 * 1024];
        let mut got = 0;
        let all = async {
            while let Ok(n) = stream.read(&mut answer[got..]).await {
                got += n;
                if n == 0 {
                    break;
                }
            }
        };
        // A WebSocket stays open: what came by then is the answer.
        let _ = tokio::time::timeout(Duration::from_millis(500), all).await;
        String::from_utf8_lossy(&answer[..got]).into_owned()
    }

    #[tokio::test]
    async fn the_page_answers_with_a_strict_policy_and_a_viewer_is_counted_only_while_it_looks() {
        let dir = tempfile::tempdir().expect("folder");
        let hub = Hub::new(crate::cloud::vault::empty(dir.path()), crate::base::reason::Counters::default());
        let tasks = Tasks::default();
        assert!(Page::bind(([0, 0, 0, 0], 0).into()).await.is_err());
        let page = Page::bind(([127, 0, 0, 1], 0).into()).await.expect("binds");
        let address = page.address();
        tasks.spawn("page", page.run(hub.clone(), Arc::new(Nothing), tasks.part()));
        let host = format!("Host: {address}\r\nConnection: close");
        let html = ask(address, "/", &host).await;
        assert!(
            html.starts_with("HTTP/1.1 200") && html.contains("content-security-policy: default-src 'self'"),
            "{html}"
        );
        assert!(ask(address, "/api/cameras", &host).await.contains(r#"[{"id":"0505"#));
        assert!(ask(address, "/metrics", &host).await.contains("mvb_cloud_locked 1"));
        assert!(ask(address, "/", "Host: evil.example\r\nConnection: close").await.starts_with("HTTP/1.1 421"));
        let upgrade = format!(
            "Host: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        );
        let mut wanted = hub.wanted();
        let camera = CameraId([5; 16]);
        let path = format!("/api/live/{camera}");
        let looking = ask(address, &path, &upgrade);
        let seen = async {
            wanted.wait_for(|wanted| wanted.contains(&camera)).await.expect("subscribed");
            assert_eq!(hub.viewers(), 1);
        };
        let (answer, ()) = tokio::join!(looking, seen);
        assert!(answer.starts_with("HTTP/1.1 101") && answer.contains(r#""state":"cloud-locked""#), "{answer}");
        let gone = tokio::time::timeout(PATIENCE, wanted.wait_for(|wanted| wanted.is_empty())).await;
        gone.expect("in time").expect("unsubscribed");
        let evil = ask(address, &path, &format!("{upgrade}\r\nOrigin: http://evil.example")).await;
        assert!(evil.starts_with("HTTP/1.1 421"), "{evil}");
        assert!(tasks.stop(PATIENCE).await);
    }
}
