-- The catalog: a projection of the journal, on internal storage. It may be deleted at any time while the box is off:
-- it is rebuilt from the journal, the headers and receipts.log. Times are microseconds of the run's boot time.

-- position: how far the journal is projected (canonical CBOR of head, file, end); card: on which card that file is.
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE runs (
    seq INTEGER PRIMARY KEY,            -- journal entry "run started"
    boot BLOB NOT NULL, start INTEGER NOT NULL, at INTEGER NOT NULL,
    clean INTEGER NOT NULL              -- the run before ended in order
);

CREATE TABLE segments (
    id BLOB PRIMARY KEY,
    seq INTEGER NOT NULL,               -- journal entry "opened" or "adopted"
    organisation BLOB NOT NULL, camera BLOB NOT NULL, recording BLOB NOT NULL,
    boot BLOB NOT NULL, start INTEGER NOT NULL,
    opened_at INTEGER NOT NULL, closed_at INTEGER,
    closed_seq INTEGER,                 -- journal entry "closed"; NULL while open
    size INTEGER, sha256 BLOB, end_sha256 BLOB, reason INTEGER,
    cut INTEGER,                        -- where recovery's END begins
    prev BLOB,                          -- segment before it in the recording
    background INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0,
    class INTEGER NOT NULL DEFAULT 3,   -- seal::UploadClass
    destroyed INTEGER,                  -- cause; NULL while it exists
    damaged INTEGER NOT NULL DEFAULT 0, -- the file differs from the journal
    present INTEGER NOT NULL DEFAULT 1  -- the file is on the card that is in the box
) WITHOUT ROWID;
CREATE INDEX segments_recording ON segments (recording, seq);
CREATE INDEX segments_closed ON segments (organisation, class, closed_seq);

CREATE TABLE gaps (
    seq INTEGER PRIMARY KEY, camera BLOB NOT NULL, recording BLOB NOT NULL,
    starts INTEGER NOT NULL, ends INTEGER NOT NULL, cause INTEGER NOT NULL, bytes INTEGER NOT NULL
);

CREATE TABLE times (seq INTEGER PRIMARY KEY, boot BLOB NOT NULL, statement BLOB NOT NULL);

CREATE TABLE receipts (
    id BLOB PRIMARY KEY, size INTEGER NOT NULL, sha256 BLOB NOT NULL, opened INTEGER NOT NULL, statement BLOB NOT NULL
) WITHOUT ROWID;
