//! Real cameras for whole-product runs: fixed files made once by ffmpeg, sent with `-c copy`, compared by framemd5.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// A moving picture (360p, 25 fps, key frame each 2 s) with sound, `seconds` long, made once; another length is another
/// picture and sound.
pub fn file(seconds: u32) -> PathBuf {
    static MADE: OnceLock<std::sync::Mutex<()>> = OnceLock::new();
    let _one = MADE.get_or_init(Default::default).lock().expect("no maker panicked");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("camera-{seconds}.mp4"));
    if !path.exists() {
        let beside = path.with_extension("new.mp4");
        let done = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y", "-f", "lavfi"])
            .args(["-i", &format!("testsrc2=size=640x360:rate=25,hue=h={}", seconds * 7), "-f", "lavfi", "-i"])
            .arg(format!("sine=frequency={}:sample_rate=48000", 300 + seconds))
            .args(["-t", &seconds.to_string(), "-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency"])
            .args(["-g", "50", "-b:v", "1M", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "64k"])
            .args(["-use_editlist", "0"])
            .arg(&beside)
            .status()
            .expect("ffmpeg runs");
        assert!(done.success(), "ffmpeg makes the camera file");
        std::fs::rename(&beside, &path).expect("renames");
    }
    path
}

/// Sends a file in real time, as a camera does. Ends by itself at the end of the file. Sound goes as MP4A-LATM, one frame a
/// packet: as AAC-hbr, ffmpeg keeps the last frames of a file to itself.
pub fn push(file: &Path, url: &str, transport: &str) -> Child {
    Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-re", "-i"])
        .arg(file)
        .args(["-c", "copy", "-f", "rtsp", "-rtpflags", "latm", "-rtsp_transport", transport, url])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ffmpeg runs")
}

/// Sends the pictures of one file with the raw µ-law sound of another.
pub fn push_pictures_and_ulaw(pictures: &Path, sound: &Path, url: &str) -> Child {
    Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-re", "-i"])
        .arg(pictures)
        .args(["-re", "-f", "mulaw", "-ar", "8000", "-ac", "1", "-i"])
        .arg(sound)
        .args(["-map", "0:v", "-map", "1:a", "-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", url])
        .stdin(Stdio::null())
        .spawn()
        .expect("ffmpeg runs")
}

/// The camera is switched off.
pub fn end(push: &mut Child) {
    let _ = push.kill();
    let _ = push.wait();
}

/// One coded packet: stream index, MD5 of its bytes.
pub type Packet = (u32, String);

/// The packets of a file, per stream in order, as ffmpeg's framemd5 states them.
pub fn packets(file: &Path) -> Vec<Packet> {
    let out = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-ignore_editlist", "1", "-i"])
        .arg(file)
        .args(["-c", "copy", "-f", "framemd5", "-"])
        .output()
        .expect("ffmpeg runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout)
        .expect("framemd5 is text")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut fields = line.split(',').map(str::trim);
            let stream = fields.next().and_then(|s| s.parse().ok()).expect("a stream index");
            (stream, fields.next_back().expect("a hash").to_owned())
        })
        .collect()
}

/// The hashes of one stream.
pub fn stream(packets: &[Packet], index: u32) -> Vec<&str> {
    packets.iter().filter(|(stream, _)| *stream == index).map(|(_, hash)| hash.as_str()).collect()
}
