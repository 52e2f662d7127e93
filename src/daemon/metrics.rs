//! `/metrics` on loopback for Prometheus: the status in numbers, and how often each reason occurred.
//!
//! One page needs no web framework: a request line is read, the text is written, the connection is closed (HTTP/1.0).
//! Names of cameras and officers are not shown: whoever scrapes has no login.

use crate::base::reason::Coded;
use crate::base::tasks::Tasks;
use crate::control::status::{Status, Verdict};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Longest request that is read.
const MAX_REQUEST: usize = 8 * 1024;
/// A client that does not say or take anything for this long is dropped.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at one time.
const MAX_CLIENTS: usize = 4;

/// Why the page is not served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address is taken.
    #[error("cannot listen on {address}: set metrics.listen to a free loopback address, or to \"\" for none")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Coded for MetricsError {
    fn code(&self) -> &'static str {
        "metrics-bind"
    }
}

/// Makes the present status.
pub type Snapshot = Arc<dyn Fn() -> Status + Send + Sync>;

/// Serves the page until told to stop.
///
/// # Errors
/// `Bind`.
pub async fn run(tasks: Tasks, address: SocketAddr, snapshot: Snapshot) -> Result<(), MetricsError> {
    let listener = TcpListener::bind(address).await.map_err(|source| MetricsError::Bind { address, source })?;
    let mut registry = Registry::with_prefix("mvb");
    registry.register_collector(Box::new(Gauges(snapshot)));
    let registry = Arc::new(registry);
    let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
    let stop = tasks.stopping();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = stream else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        // Too many at once: closing is an answer.
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let registry = registry.clone();
        tasks.spawn("metrics", async move {
            let _ = tokio::time::timeout(PATIENCE, answer(stream, &registry)).await;
            drop(slot);
        });
    }
}

async fn answer(mut stream: TcpStream, registry: &Registry) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let len = stream.read(&mut part).await?;
        if len == 0 || request.len() + len > MAX_REQUEST {
            return Ok(());
        }
        request.extend_from_slice(part.get(..len).unwrap_or_default());
    }
    let mut text = String::new();
    let known =
        request.starts_with(b"GET /metrics ") && prometheus_client::encoding::text::encode(&mut text, registry).is_ok();
    let head = if known {
        "200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        text = "only GET /metrics is here\n".to_owned();
        "404 Not Found\r\nContent-Type: text/plain"
    };
    let answer = format!("HTTP/1.0 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

struct Gauges(Snapshot);

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

type Labelled = (Vec<(&'static str, String)>, u64);

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = (self.0)();
        let gauge = |encoder: &mut DescriptorEncoder<'_>, name, help, value: u64| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        let (recorded, bound) = match status.verdict {
            Verdict::Recording { cameras, loss_bound_ms } => (cameras as u64, loss_bound_ms),
            _ => (0, 0),
        };
        gauge(&mut encoder, "recorded_cameras", "Cameras whose footage is written", recorded)?;
        gauge(&mut encoder, "loss_bound_milliseconds", "Footage lost at most if power were cut now", bound)?;
        let stopped = u64::from(matches!(status.verdict, Verdict::NotRecording { .. }));
        gauge(&mut encoder, "not_recording", "1 if footage is lost or would be", stopped)?;
        gauge(&mut encoder, "card_free_bytes", "Free space of the card", status.card.free.0)?;
        gauge(&mut encoder, "card_total_bytes", "Size of the card", status.card.total.0)?;
        gauge(&mut encoder, "waiting_bytes", "Footage in memory that waits for the card", status.card.waiting.0)?;
        gauge(
            &mut encoder,
            "backlog_bytes",
            "Finished footage that the cloud has not committed",
            status.uplink.backlog.0,
        )?;
        gauge(&mut encoder, "backlog_segments", "The same in segments", status.uplink.backlog_segments)?;
        let connected = u64::from(status.uplink.state == "connected");
        gauge(&mut encoder, "uplink_connected", "1 if a pinned session with the cloud stands", connected)?;
        gauge(&mut encoder, "memory_bytes", "Resident memory of the daemon", status.memory.0)?;
        gauge(&mut encoder, "uptime_seconds", "Since the daemon started", status.uptime_seconds)?;

        let mut family = |name, help, counted: bool, values: Vec<Labelled>| -> fmt::Result {
            let kind =
                if counted { ConstCounter::new(0u64).metric_type() } else { ConstGauge::new(0i64).metric_type() };
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, value) in &values {
                let metric = family.encode_family(labels)?;
                if counted {
                    ConstCounter::new(*value).encode(metric)?;
                } else {
                    ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX)).encode(metric)?;
                }
            }
            Ok(())
        };
        let of_reasons = status.reasons.iter().map(|(code, count)| (vec![("code", code.clone())], *count)).collect();
        family("reason", "Stops, drops, skips and refusals by stable code", true, of_reasons)?;
        let of_alarms = status.alarms.iter().map(|code| (vec![("code", code.clone())], 1)).collect();
        family("alarm", "Alarms that stand", false, of_alarms)?;
        let of_services =
            status.services.iter().map(|service| (vec![("service", service.name.clone())], service.restarts)).collect();
        family("service_restarts", "Services that were started again", true, of_services)?;
        let by_camera = |value: fn(&crate::control::status::Camera) -> u64| {
            status.cameras.iter().map(|camera| (vec![("camera", camera.id.to_string())], value(camera))).collect()
        };
        family("camera_accepted", "Access units accepted from a camera", true, by_camera(|camera| camera.accepted))?;
        family("camera_sealed_bytes", "Bytes sealed of a camera's footage", true, by_camera(|camera| camera.bytes.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::samples;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.expect("writes");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("reads");
        text
    }

    #[tokio::test]
    async fn the_page_shows_reasons_and_the_verdict_but_no_names() {
        let mut status = samples::unpaired();
        status.reasons.insert("bad-signature".into(), 3);
        status.cameras.push(samples::camera("recording", 5));
        status.cameras[0].name = "Secret name".into();
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound");
        let tasks = Tasks::default();
        tasks.spawn("metrics", run(tasks.part(), free, Arc::new(move || status.clone())));
        let end = tokio::time::Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(free).await.is_err() {
            assert!(tokio::time::Instant::now() < end, "it never listened");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let page = get(free, "/metrics").await;
        assert!(page.starts_with("HTTP/1.0 200 OK\r\n"), "{page}");
        for line in
            ["mvb_reason_total{code=\"bad-signature\"} 3", "mvb_not_recording 1", "mvb_alarm{code=\"seal-no-key\"} 1"]
        {
            assert!(page.lines().any(|shown| shown == line), "{line} is not in\n{page}");
        }
        assert!(page.ends_with("# EOF\n") && !page.contains("Secret"));
        assert!(get(free, "/").await.starts_with("HTTP/1.0 404"));
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }
}
