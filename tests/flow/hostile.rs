//! Hostile peers and damaged files: a clear answer, and two live cameras lose nothing.

use crate::camera;
use crate::footage;
use crate::world::World;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn connect(rtsp: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", rtsp)).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a time-out");
    stream
}

/// What the server says until it closes; a server that neither answers nor closes is a failure.
fn answer(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("no answer: {error}"),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("runs");
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_half_open_connections_and_malformed_ones_cost_no_frame_and_little_memory() {
    let world = World::new().await;
    world.pair();
    let file = camera::file(24);
    let cameras = [("Bodycam 1", "tcp"), ("Bodycam 2", "udp")].map(|(name, by)| (world.enrol(name), by));
    let mut pushes = cameras.each_ref().map(|((_, url), by)| camera::push(&file, url, by));
    world.until_accepted(3 * 72);
    let before = resident(world.box_pid());

    let held: Vec<TcpStream> = (0..1000).map(|_| connect(world.rtsp)).collect();
    world.until_accepted(5 * 72);
    let grown = resident(world.box_pid()).saturating_sub(before);
    println!("1000 half-open connections: + {grown} bytes of RSS");
    assert!(grown <= 20_000_000, "{grown}");
    drop(held);

    // A header that never ends.
    let mut stream = connect(world.rtsp);
    let _ = stream.write_all(b"OPTIONS rtsp://x/ RTSP/1.0\r\nCSeq: 1\r\nX: ");
    let sent = (0..10 * 16).take_while(|_| stream.write_all(&[b'a'; 65_536]).is_ok()).count();
    assert!(sent < 10 * 16, "10 MB of header were taken");

    // A body of 1 GB is refused when it is announced.
    let mut stream = connect(world.rtsp);
    stream.write_all(b"ANNOUNCE rtsp://x/y RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 1000000000\r\n\r\n").expect("sends");
    let said = answer(stream);
    assert!(said.starts_with("RTSP/1.0 413"), "{said:?}");

    // What is no RTSP at all.
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\xff\0\xff\r\n\r\n", b"$\0\xff\xff", b"\x16\x03\x01\x02\0\x01\0"]
    {
        let mut stream = connect(world.rtsp);
        stream.write_all(noise).expect("sends");
        let _ = stream.shutdown(std::net::Shutdown::Write);
        answer(stream);
    }

    // A byte a second is too slow.
    let mut stream = connect(world.rtsp);
    stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
    let (start, mut text) = (Instant::now(), b"OPTIONS rtsp://x/ RTSP/1.0\r\n".iter().cycle());
    loop {
        let byte = [*text.next().expect("endless")];
        if stream.write_all(&byte).is_err() || matches!(stream.read(&mut [0; 64]), Ok(0)) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "a slow connection is held for ever");
    }

    for push in &mut pushes {
        assert!(push.wait().expect("waits").success());
    }
    world.until_backlog_is_empty(60);
    for ((id, _), _) in &cameras {
        footage::assert_whole(&footage::of(&world, id), &file);
    }
    println!("reasons: {}", world.ask_box(&["status"])["reasons"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_configuration_is_refused_by_line_and_a_corrupt_catalog_is_made_anew() {
    let mut world = World::new().await;
    world.pair();
    let (id, url) = world.enrol("Bodycam");
    let file = camera::file(3);
    assert!(camera::push(&file, &url, "tcp").wait().expect("waits").success());
    world.until_backlog_is_empty(30);
    let listed = world.ask_box(&["recordings"]);
    world.stop_box();

    let catalogs = std::fs::read_dir(world.path("box/store")).expect("a folder").map(|entry| entry.expect("an entry"));
    let mut damaged = 0;
    for entry in catalogs.filter(|entry| entry.file_name().to_string_lossy().contains("catalog")) {
        std::fs::write(entry.path(), [0x5a; 5000]).expect("writes");
        damaged += 1;
    }
    assert!(damaged > 0, "a catalog was there");
    world.start_box();
    let again = world.ask_box(&["recordings"]);
    assert_eq!(again[0]["recording"], listed[0]["recording"]);
    assert_eq!(again[0]["size"], listed[0]["size"]);
    // Receipts that were in it are asked for again.
    world.until_backlog_is_empty(30);
    footage::assert_whole(&footage::of(&world, &id), &file);
    world.stop_box();

    let config = world.path("box/mvb.toml");
    for (text, expected) in
        [("[storage]\npaht = \"/x\"\n", "line 2"), ("[storage\n", "line 1"), ("\u{0}\u{1}", "line 1")]
    {
        std::fs::write(&config, text).expect("writes");
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_mvbd"))
            .arg("--config")
            .arg(&config)
            .args(["--state", "box", "--check"])
            .current_dir(world.dir.path())
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains(expected) || said.contains(&expected.replace("line ", ":")), "{text:?}: {said}");
    }
}
