//! Messages of netfilter's netlink, written and read.

use nix::errno::Errno;
use nix::libc::{NLMSG_DONE, NLMSG_ERROR};

/// `struct nlmsghdr`: length (4), type (2), flags (2), sequence (4), port (4).
const HEADER: usize = 16;
/// `struct nfgenmsg`: family (1), version (1), resource (2).
const FAMILY: usize = 4;
/// `NLM_F_MULTI` in linux/netlink.h.
const MULTI: u16 = 2;
/// `NLA_F_NESTED`, and the type without such flags.
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

/// Attributes to send.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// With a text, which ends in a zero byte.
    #[must_use]
    pub(crate) fn text(self, kind: u16, text: &str) -> Self {
        self.bytes(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// With other attributes in one.
    #[must_use]
    pub(crate) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// As they are sent.
    #[cfg(test)]
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// With a value as it is; numbers in netfilter's attributes are big-endian.
    #[must_use]
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // One that is too long is never sent: see `request`.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// A request about `family` (`AF_…`, `NFPROTO_…`); the answer has the same `sequence`.
pub(super) fn request(
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    attributes: &Attributes,
) -> nix::Result<Vec<u8>> {
    let length = HEADER + FAMILY + attributes.0.len();
    let length = u16::try_from(length).map_err(|_too_long| Errno::EMSGSIZE)?;
    let mut message = Vec::with_capacity(length.into());
    message.extend(u32::from(length).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend([family, 0, 0, 0]);
    message.extend(&attributes.0);
    Ok(message)
}

/// A message that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    flags: u16,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Whether another message belongs to the same answer.
    pub(super) fn has_more(&self) -> bool {
        self.flags & MULTI != 0 && i32::from(self.kind) != NLMSG_DONE
    }

    /// Its attributes; `None` where it only says how the request went, and that was well.
    pub(super) fn content(&self) -> nix::Result<Option<&'a [u8]>> {
        match i32::from(self.kind) {
            NLMSG_DONE => Ok(None),
            NLMSG_ERROR => match i32::from_ne_bytes(array(self.body, 0)?).saturating_neg() {
                0 => Ok(None),
                code => Err(Errno::from_raw(code)),
            },
            _ => Ok(Some(self.body.get(FAMILY..).unwrap_or_default())),
        }
    }
}

/// The messages in what came at once; what is no message is an error and ends them.
pub(super) fn messages(mut rest: &[u8]) -> impl Iterator<Item = nix::Result<Message<'_>>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = message(rest);
        let length = message.map_or(rest.len(), |message| HEADER + message.body.len());
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

fn message(bytes: &[u8]) -> nix::Result<Message<'_>> {
    let length = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).unwrap_or(usize::MAX);
    Ok(Message {
        kind: u16::from_ne_bytes(array(bytes, 4)?),
        flags: u16::from_ne_bytes(array(bytes, 6)?),
        sequence: u32::from_ne_bytes(array(bytes, 8)?),
        body: bytes.get(HEADER..length).ok_or(Errno::EBADMSG)?,
    })
}

/// The attributes one after the other, by type; what is no attribute ends them.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(array(rest, 0).ok()?));
        let kind = u16::from_ne_bytes(array(rest, 2).ok()?) & KIND;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> nix::Result<[u8; N]> {
    bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EBADMSG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut message = request(kind, flags, 7, 0, &Attributes::default()).expect("short");
        message.truncate(HEADER);
        message.extend(body);
        let length = u32::try_from(message.len()).expect("short");
        message[0..4].copy_from_slice(&length.to_ne_bytes());
        message
    }

    /// What the messages say, and whether there is more to come after the last.
    fn read(bytes: &[u8]) -> nix::Result<(Vec<Option<Vec<u8>>>, bool)> {
        let mut more = true;
        let mut contents = Vec::new();
        for message in messages(bytes) {
            let message = message?;
            assert_eq!(message.sequence, 7);
            more = message.has_more();
            contents.push(message.content()?.map(<[u8]>::to_vec));
        }
        Ok((contents, more))
    }

    #[test]
    fn a_request_has_padded_attributes() {
        let names = Attributes::default().text(1, "nat").text(2, "FORWARD");
        let message = request(0x0a07, 1, 9, 2, &names).expect("short");
        assert_eq!(message.len(), 20 + 8 + 12);
        assert_eq!(message[0..4], 40u32.to_ne_bytes());
        assert_eq!(message[8..12], 9u32.to_ne_bytes());
        assert_eq!(message[16..20], [2, 0, 0, 0]);
        let read: Vec<_> = attributes(&message[20..]).collect();
        assert_eq!(read, [(1, &b"nat\0"[..]), (2, &b"FORWARD\0"[..])]);

        let outer = Attributes::default().nested(4, &Attributes::default().bytes(1, &[6]));
        assert_eq!(
            outer.0,
            [&12u16.to_ne_bytes()[..], &0x8004u16.to_ne_bytes(), &attribute_of_six()].concat()
        );
        let long = Attributes::default().bytes(1, &vec![0; 70_000]);
        assert_eq!(request(0, 0, 0, 0, &long), Err(Errno::EMSGSIZE));
    }

    fn attribute_of_six() -> Vec<u8> {
        [&5u16.to_ne_bytes()[..], &1u16.to_ne_bytes(), &[6, 0, 0, 0]].concat()
    }

    #[test]
    fn answers_end_where_they_say() {
        let family = [2, 0, 0, 0];
        let row = [&family[..], b"rule"].concat();
        let said = Some(b"rule".to_vec());
        let done = message(3, MULTI, &[0; 4]);
        let one = message(0x0a06, 0, &row);
        let part = message(0x0a06, MULTI, &row);
        assert_eq!(read(&one), Ok((vec![said.clone()], false)));
        assert_eq!(read(&[part.clone(), part.clone()].concat()), Ok((vec![said.clone(); 2], true)));
        assert_eq!(read(&[part, done].concat()), Ok((vec![said, None], false)));
        assert_eq!(read(&message(2, 0, &[0; 4])), Ok((vec![None], false)));
        assert_eq!(read(&message(2, 0, &(-2i32).to_ne_bytes())), Err(Errno::ENOENT));
    }

    #[test]
    fn nonsense_ends() {
        let whole = message(0x0a06, MULTI, &[0; 12]);
        for cut in 1..whole.len() {
            assert_eq!(read(&whole[..cut]), Err(Errno::EBADMSG), "cut at {cut}");
        }
        assert!(messages(&[0; 64]).all(|message| message.is_err()));
        assert_eq!(messages(&[0; 64]).count(), 1);
        assert_eq!(attributes(&[0; 64]).count(), 0, "a length of zero ends");
        assert_eq!(attributes(&[0xff; 64]).count(), 0);
        assert_eq!(attributes(&[4, 0, 1, 0, 9]).count(), 1);
    }
}
