//! Each code in words, for people. Nothing parses them.

use super::Finding;

/// Puts the code's meaning before what the finding says already.
pub(super) fn fill(finding: &mut Finding) {
    let meaning = meaning(finding.code);
    let range = match (finding.from, finding.to) {
        (Some(from), Some(to)) if finding.code.starts_with("journal-") && to > from + 1 => {
            format!(" (entries {from} to {})", to - 1)
        }
        (Some(from), _) if finding.code.starts_with("journal-") => format!(" (entry {from})"),
        (Some(from), Some(to)) if finding.segment.is_some() && to > from => format!(" (bytes {from} to {})", to - 1),
        _ => String::new(),
    };
    finding.text = match finding.text.as_str() {
        "" => format!("{meaning}{range}"),
        more => format!("{meaning}{range}; {more}"),
    };
}

#[allow(clippy::too_many_lines)] // a table
fn meaning(code: &str) -> &'static str {
    match code {
        "header-flipped" => "the header was altered",
        "header-dropped" => "the header is missing",
        "header-duplicated" => "the header is there twice",
        "header-swapped" => "the header was exchanged with another segment's",
        "header-replayed" => "the header is that of another segment of this box",
        "header-truncated" => "the header is cut off",
        "header-foreign" => "the header is that of a segment of another box or of none that is known",
        "stanza-flipped" => "a recipient's stanza was altered",
        "stanza-dropped" => "a recipient's stanza was removed",
        "stanza-duplicated" => "a recipient's stanza is there twice",
        "stanza-swapped" => "recipients' stanzas were exchanged",
        "stanza-truncated" => "a recipient's stanza was cut short",
        "stanza-replayed" => "a recipient's stanza was replaced with another one of this box",
        "stanza-foreign" => "a stanza is for a key that the journal does not name",
        "record-flipped" => "records, or the signature after them, were altered",
        "record-dropped" => "records were removed",
        "record-duplicated" => "a record is there twice",
        "record-swapped" => "records were exchanged",
        "record-truncated" => "a record is cut off",
        "record-replayed" => "a record was replaced with an older or another one of this box",
        "record-foreign" => "a record was replaced with one of another box",
        "ckpt-flipped" => "a checkpoint was altered",
        "ckpt-dropped" => "a checkpoint was removed",
        "ckpt-duplicated" => "a checkpoint is there twice",
        "ckpt-swapped" => "checkpoints were exchanged",
        "ckpt-truncated" => "a checkpoint is cut off",
        "ckpt-replayed" => "a checkpoint was replaced with another one of this box",
        "ckpt-foreign" => "a checkpoint was replaced with one of another box",
        "end-flipped" => "the END was altered",
        "end-dropped" => "the END was removed",
        "end-duplicated" => "the END is there twice",
        "end-swapped" => "the END was exchanged with another segment's",
        "end-truncated" => "the END is cut off",
        "end-replayed" => "the END is that of another segment of this box",
        "end-foreign" => "the END is that of another box",
        "end-followed" => "bytes follow the END",
        "end-inconsistent" => "the END is signed but breaks the rules of the format",
        "segment-dropped" => "a closed segment is missing and was not destroyed by the box",
        "segment-duplicated" => "the file is a copy of another segment",
        "segment-swapped" => "two segments were exchanged",
        "segment-renamed" => "the file holds another segment than its name says",
        "segment-truncated" => "the end of the segment is missing",
        "segment-replayed" => "the segment was put back: the journal does not know it, or it was destroyed",
        "segment-foreign" => "another box sealed the segment",
        "segment-forked" => "the box signed two different continuations of the segment",
        "segment-too-long" => "the file is longer than any segment may be",
        "unknown-type" => "the segment holds a frame that needs a later version to read",
        "unknown-version" => "the segment needs a later version to read",
        "journal-flipped" => "journal entries were altered",
        "journal-dropped" => "journal entries are missing",
        "journal-duplicated" => "a journal entry is there twice",
        "journal-swapped" => "journal entries were exchanged",
        "journal-truncated" => "the end of the journal is missing",
        "journal-replayed" => "an old journal entry was put in again",
        "journal-foreign" => "another box wrote journal entries",
        "journal-forked" => "the journal does not continue what is known of it: a clone or a restored copy wrote it",
        "journal-malformed" => "a signed journal entry does not say what its kind must say",
        "card-rolled-back" => "the card was set back to an earlier state",
        "gap" => "footage is missing, as the box reported itself",
        "box-alarm" => "the box reported trouble",
        "segment-open" => "the segment is open: proven to its last checkpoint",
        "segment-torn" => "the segment is open and what follows its last checkpoint is torn, as power cuts leave it",
        "segment-unclosed" => "the segment is complete; its closing had not reached the journal",
        "segment-recovered" => "the segment was cut by loss of power or a crash and ended by the box afterwards",
        "segment-unjournaled" => "the segment is genuine; no journal here vouches that it belongs",
        "segment-erasing" => "the box was erasing the segment when it stopped",
        "segment-never-written" => "the segment was opened in the last moment and never reached the card",
        "stray-file" => "no segment's file",
        "journal-torn" => "the journal's last entry is cut off, as power cuts leave it",
        "journal-elsewhere" => "these entries are on another card",
        "journal-unknown-kind" => "an entry needs a later version to read",
        "head-elsewhere" => "the head that the cloud knows is in entries that are on another card",
        _ => "not as it should be",
    }
}
