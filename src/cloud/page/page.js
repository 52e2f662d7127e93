// The local live page: one picture per camera, by Media Source Extensions over one WebSocket each.
// A hidden page closes its sockets, so that no camera is sent for nobody.
'use strict';

const WORDS = {
  connecting: 'Connecting …',
  waiting: 'Waiting for the next key frame …',
  live: 'Live',
  stalled: 'No picture arrives',
  offline: 'The box is not connected',
  'cloud-locked': 'The organisation key is locked: run "mvb-cloud unlock"',
  'codec-unplayable': 'This browser cannot play the camera\'s codec',
  ended: 'Connection lost, trying again …',
};
const KEEP_SECONDS = 20;
const MAX_BEHIND = 1.2;
const STALL_MS = 3000;

class Camera {
  constructor(camera) {
    this.id = camera.id;
    const node = document.getElementById('camera').content.cloneNode(true);
    this.article = node.querySelector('article');
    this.video = node.querySelector('video');
    this.article.querySelector('h2').textContent = camera.name;
    this.article.dataset.camera = camera.id;
    document.getElementById('cameras').append(node);
    this.show('connecting');
    this.queue = [];
    this.age = null;
    this.open();
  }

  open() {
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    this.socket = new WebSocket(`${scheme}://${location.host}/api/live/${this.id}`);
    this.socket.binaryType = 'arraybuffer';
    this.socket.onmessage = (event) => this.message(event.data);
    this.socket.onclose = () => {
      if (!this.closed) {
        this.show('ended');
        this.retry = setTimeout(() => this.open(), 2000);
      }
    };
  }

  close() {
    this.closed = true;
    clearTimeout(this.retry);
    this.socket.close();
    this.article.remove();
  }

  message(data) {
    if (typeof data !== 'string') {
      this.queue.push(data);
      this.append();
      return;
    }
    const note = JSON.parse(data);
    if (note.name) this.article.querySelector('h2').textContent = note.name;
    if (note.state) this.show(note.state);
    if (note.mime) this.start(note.mime);
    if ('age_ms' in note) {
      this.age = note.age_ms === null ? null : { ms: note.age_ms, at: performance.now() };
      this.show('live');
    }
  }

  start(mime) {
    if (!MediaSource.isTypeSupported(mime)) {
      this.show('codec-unplayable');
      this.socket.close();
      this.closed = true;
      return;
    }
    if (this.url) URL.revokeObjectURL(this.url);
    this.queue = [];
    this.buffer = null;
    this.source = new MediaSource();
    this.url = URL.createObjectURL(this.source);
    const source = this.source;
    source.onsourceopen = () => {
      if (source !== this.source) return;
      this.buffer = source.addSourceBuffer(mime);
      this.buffer.mode = 'segments';
      this.buffer.onupdateend = () => { this.follow(); this.append(); };
      this.append();
    };
    this.video.src = this.url;
    this.video.play().catch(() => {});
  }

  append() {
    if (!this.buffer || this.buffer.updating || this.queue.length === 0) return;
    try {
      this.buffer.appendBuffer(this.queue.shift());
    } catch (error) {
      // The buffer is full or broken: start again at the next key frame.
      this.queue = [];
      this.socket.close();
    }
  }

  // Stay near the newest picture, and keep memory bounded.
  follow() {
    const ranges = this.buffer.buffered;
    if (ranges.length === 0) return;
    const end = ranges.end(ranges.length - 1);
    const start = ranges.start(ranges.length - 1);
    if (this.video.currentTime < start || end - this.video.currentTime > MAX_BEHIND) {
      this.video.currentTime = Math.max(start, end - 0.1);
    }
    if (!this.buffer.updating && ranges.start(0) < end - 2 * KEEP_SECONDS) {
      this.buffer.remove(0, end - KEEP_SECONDS);
    }
  }

  tick() {
    const text = this.article.querySelector('.age');
    if (this.age === null) { text.textContent = ''; return; }
    const since = performance.now() - this.age.at;
    if (since > STALL_MS && this.article.dataset.state === 'live') this.show('stalled');
    text.textContent = `picture ${((this.age.ms + since) / 1000).toFixed(1)} s old`;
  }

  show(state) {
    this.article.dataset.state = state;
    this.article.querySelector('.state').textContent = WORDS[state] || state;
  }
}

const cameras = new Map();

async function refresh() {
  if (document.hidden) return;
  const summary = document.getElementById('summary');
  try {
    const answer = await fetch('/api/cameras');
    const list = await answer.json();
    summary.textContent = list.length === 0 ? 'No camera has sent anything yet.' : `${list.length} cameras`;
    for (const camera of list) {
      if (!cameras.has(camera.id)) cameras.set(camera.id, new Camera(camera));
    }
  } catch (error) {
    summary.textContent = 'mvb-cloud does not answer.';
  }
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    for (const camera of cameras.values()) camera.close();
    cameras.clear();
  } else {
    refresh();
  }
});
setInterval(refresh, 3000);
setInterval(() => { for (const camera of cameras.values()) camera.tick(); }, 200);
refresh();
