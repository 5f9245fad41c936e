/*!
The bytes on disk. This page is the specification; there is no second copy.

Everything is little-endian and of fixed width. All-zero bytes are never valid, so room that was
preallocated or trimmed reads as "nothing here". This module is pure: slices in, values out.

# Grammar

```text
log       = identity slot*                    one directory
slot      = segment                           one file, `slot-NNNNNN`, reused after release
segment   = segment-header-block frame* rest  exactly `segment bytes` long
frame     = frame-header record* zeros        a multiple of the block long; all or nothing
record    = record-header payload zeros       a multiple of 8 bytes long
```

A **block** is 4096 bytes unless the log was created with another size. A record's **Lsn** is the
base of its segment plus the offset of its record header in the segment's file; a frame's Lsn is
that of its frame header. A **batch** is a run of records in one frame of which all but the last
say that more follow.

# Identity: the file `identity`, 4096 bytes

| offset | bytes | field |
|---|---|---|
| 0 | 8 | magic `"walIdent"` |
| 8 | 4 | CRC-32 of all bytes after this field |
| 12 | 2 | version, 1 |
| 14 | 2 | zero |
| 16 | 16 | log id, random |
| 32 | 8 | segment bytes: the same for all segments of the log |
| 40 | 4 | block bytes: a power of two from 512 to 65536 |
| 44 | 4 | zero |
| 48 | 8 | creation, seconds since 1970-01-01 UTC |
| 56 | | zeros to the end |

# Segment header: the first block of a slot

| offset | bytes | field |
|---|---|---|
| 0 | 8 | magic `"walSegmt"` |
| 8 | 4 | CRC-32 of all bytes of the block after this field |
| 12 | 2 | version, 1 |
| 14 | 1 | checksum kind: 1 is CRC-32 (IEEE 802.3, reflected) |
| 15 | 1 | origin of the slot's other bytes: 1 zeros were written, 2 an older segment's are left |
| 16 | 16 | log id |
| 32 | 8 | sequence: 0 for the first segment, its predecessor's plus 1 for every other |
| 40 | 8 | base Lsn: sequence × segment bytes |
| 48 | 8 | segment bytes |
| 56 | 4 | block bytes |
| 60 | 4 | zero |
| 64 | | zeros to the end of the block |

# Frame header: 64 bytes at the start of a block

| offset | bytes | field |
|---|---|---|
| 0 | 4 | magic `"walF"` |
| 4 | 4 | CRC-32 of bytes 8 to 63, continued from the CRC-32 of the log id |
| 8 | 8 | the frame's own Lsn |
| 16 | 4 | payload bytes: the lengths of its records, their headers and zeros included |
| 20 | 4 | record count |
| 24 | 8 | ordinal of the first record: how many records the log had before it |
| 32 | 8 | epoch: raised at every open for writing |
| 40 | 8 | incarnation: random at every open for writing |
| 48 | 8 | durable mark when the frame was sealed: all bytes of the log below it are on stable storage |
| 56 | 4 | CRC field of the frame header before this one in the log; 0 for the first frame of all |
| 60 | 4 | purpose: 1 records, 2 opening, 3 confirmation, 4 close |

The frame takes 64 + payload bytes, rounded up to a block; what rounding adds is zeros.

# Record header: 8 bytes at a multiple of 8

| offset | bytes | field |
|---|---|---|
| 0 | 4 | CRC-32 of all bytes of the record after this field, its zeros included, continued from the record's seed |
| 4 | 4 | bits 0–27 payload length; bits 28–29 kind (1 data, 2 void, 3 checkpoint); bit 30 more records of the batch follow; bit 31 zero |

The seed binds a record to its log, writer and place. With `w` the CRC-32 of log id, epoch and
incarnation (16 + 8 + 8 bytes): `z = (w << 32 | w) XOR Lsn`, `z = z × 0x9E3779B97F4A7C15 mod 2^64`,
`seed = z >> 32`. CRC-32 maps different seeds to different sums for the same bytes, so a record
that is found in another place, or was left by another writer, never fits.

A void record holds the room of a record whose writer gave up; its payload means nothing. A
checkpoint's payload is the start mark (8 bytes) and up to 1024 bytes of the user's own. The first
frame of every segment but the first begins by restating the latest checkpoint, if there was one.

# What is valid

A frame at Lsn `p` is **self-valid** if and only if
1. its magic and CRC fit, and so does the log id through the CRC;
2. its Lsn field is `p`;
3. its purpose is known, and its length reaches neither past the segment nor past 2^32;
4. its records fill its payload exactly, and there are record count of them;
5. every record's kind is known, bit 31 is zero, its CRC fits, and the last says that no more follow;
6. the bytes from the payload's end to the block's are zeros.

It **belongs** if and only if it is self-valid and
1. its previous-CRC field is the CRC field of the frame before it in the log;
2. its first ordinal is that frame's first ordinal plus its record count;
3. its epoch is at least that frame's, and at the same epoch the incarnation is the same.

The first frame of the oldest live segment has nobody before it and is taken at its word, but for the
sixth proof below.

# The reader's algorithm

Start at the block after the segment header. While a frame belongs, take it and go on at its end.
Where none does: if the next segment's first frame belongs after the last one taken, the rest of
this segment is unused room, so go on there. Else this is where the log ends, *unless* something
proves that more was durable. Then the log is damaged, not torn. *Later* are frame headers further on,
here and in the segments after this one, valid by (1) to (3), of the last taken frame's epoch or a
later one; what is older was cut once, and proves nothing. It is proof that

1. a later header's durable mark lies above this place;
2. the first frame of the next segment is self-valid and of no earlier epoch than any header in this
   segment, but does not belong, nor does its checkpoint release all before it: the next segment is
   written when all of this one is durable;
3. a torn frame stands here, its header valid by (1) to (3) and of the last taken frame's epoch or a
   later one, and in a segment after this one a later header, of no earlier epoch than the torn one;
4. a self-valid frame stands here, of the last taken frame's epoch or a later one, but does not belong;
5. there are two segments after this one, or one and no frame here: a segment is prepared when the one
   before it holds a durable frame. Or there is neither a frame here nor a segment before, and this is not
   the log's first: a segment is released by a checkpoint in a later one;
6. the count of records at this place is above an eighth of its Lsn, for a record takes eight bytes.

A header valid by (1) and (2) here or further on, of a purpose that is not known and of no earlier epoch
than the last taken frame's, is a later version's: the log is not for this one, whatever seems to be
missing or damaged in it.

A damaged header that names this place, or that of the next segment's first frame, by its Lsn field, is
what is left of a torn frame. Behind a close, whose writer wrote nothing more, it is so only if its epoch
field is above that of the close, or its CRC of the frame before is that of the close.

Below the highest durable mark of all frames taken and all later headers, everything is durable, and
so are all records before an opening, confirmation or closing frame; but a close may stand beside a
confirmation that was lost, so no mark reaches past the log's end.

# The epoch of an open

It is above the epochs of all headers, valid by (1) to (3), that the open saw: frames that are cut then
are older than what is written over and after them. Where the end of the log cannot be read and is
taken for torn, there may be any epoch in it. Then it is 2^32 above every epoch seen and every one
that the name of a file `cut-LSN-EPOCH` of the directory ends with, and such a file is made with the
open's own epoch, durably, before its first frame is written.

# Worked example

A log with id `10 11 12 .. 1f`, first segment, first frame: epoch 1, incarnation
`0x0123456789abcdef`, one batch of one record, `"hi"`, at Lsn 4160.

```text
4096  77 61 6c 46 bc af 20 1b  00 10 00 00 00 00 00 00   magic, CRC, Lsn 4096
4112  10 00 00 00 01 00 00 00  00 00 00 00 00 00 00 00   16 payload bytes, 1 record, ordinal 0
4128  01 00 00 00 00 00 00 00  ef cd ab 89 67 45 23 01   epoch, incarnation
4144  00 00 00 00 00 00 00 00  00 00 00 00 01 00 00 00   durable mark 0, no frame before, records
4160  d6 4b cb 33 02 00 00 10  68 69 00 00 00 00 00 00   CRC, data of 2 bytes, "hi", zeros
```

and zeros up to 8192, where the next frame starts.

# Benefits and downsides

A reader needs no state but the last header's CRC; appenders checksum their own records, so no
thread touches all bytes; nothing acknowledged is ever written again. In exchange a lone small
commit takes a whole block, and one bad byte costs its whole frame.
*/

mod checkpoint;
mod frame;
mod header;
mod record;

pub use checkpoint::{CHECKPOINT_BYTES_MAX, Checkpoint};
pub(crate) use frame::Claim;
pub use frame::{FRAME_HEADER_BYTES, Fault, Frame, FrameHeader, Purpose};
pub use header::{
    BLOCK_BYTES_DEFAULT, BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, HeaderFault, IDENTITY_BYTES, Identity,
    LogId, Origin, SEGMENT_BYTES_MAX, SegmentHeader,
};
pub(crate) use record::{Position, encode, parse as parse_record};
pub use record::{
    RECORD_HEADER_BYTES, RECORD_PAYLOAD_MAX, Record, RecordKind, Records, WriterSeed,
    encode_record, record_bytes,
};

/// The version of the format that this crate writes and reads.
pub const VERSION: u16 = 1;

/// Copies `value` to `offset`. Fields have compile-time offsets inside their fixed-size block.
fn put<const N: usize>(block: &mut [u8], offset: usize, value: [u8; N]) {
    block[offset..offset + N].copy_from_slice(&value);
}

/// Reads a fixed-size field at a compile-time offset inside its fixed-size block.
fn get<const N: usize>(block: &[u8], offset: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&block[offset..offset + N]);
    value
}

/// Where the first byte stands that is not zero.
fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    // Sixteen at a time: padding is up to a block, checked once for every frame that is read.
    let (chunks, rest) = bytes.as_chunks::<16>();
    match chunks.iter().position(|chunk| *chunk != [0; 16]) {
        Some(chunk) => {
            bytes[chunk * 16..].iter().position(|byte| *byte != 0).map(|i| chunk * 16 + i)
        }
        None => rest.iter().position(|byte| *byte != 0).map(|i| chunks.len() * 16 + i),
    }
}

#[cfg(test)]
mod tests;
