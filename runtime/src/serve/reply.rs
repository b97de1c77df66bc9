//! Writes an answer: its head, and its body piece by piece, in as few writes as possible.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue, StatusCode, header};
use hyper::Response;
use hyper::body::{Body, Buf};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::connection::attended;
use super::refusal::Refusal;
use super::request::Asks;
use super::service::BoxError;
pub(super) use super::socket::ROOM as USUAL;
use super::socket::Socket;
use crate::memory::{Held, account};
use crate::shutdown::Shutdown;

/// Buffer for the head of an answer.
const ROOM: usize = 512;

/// Pieces that are available together are written together up to this many bytes; longer ones are not copied.
const TOGETHER: usize = 16 * 1024;

/// How the client finds the end of a body.
#[derive(Clone, Copy)]
enum Framing {
    /// There is no body.
    None,
    /// This many bytes are left.
    Length(u64),
    /// Each piece is preceded by its length.
    Chunks,
    /// The end of the connection ends the body.
    UntilClose,
    /// There is no body, but the answer declares its length.
    Told(u64),
}

/// Decides whether the connection continues after an answer.
pub(super) struct Ending<'a> {
    /// What the request requires of the connection.
    pub(super) asks: Asks,
    pub(super) shutdown: &'a Shutdown,
}

/// Sends an answer, and returns when it ended. `None` if the connection must close, because either side demands it or
/// the client is gone.
///
/// # Errors
/// The connection fails, or the body does.
pub(super) async fn send<R>(
    socket: &mut Socket,
    response: Response<R>,
    now: Instant,
    Ending { asks, shutdown }: Ending<'_>,
) -> Result<Option<Instant>, BoxError>
where
    R: Body<Data: Send, Error: Into<BoxError>> + Send,
{
    let (head, body) = response.into_parts();
    let mut framing = Framing::of(&head, &body, asks);
    let exact = if let Framing::Length(length) = framing { usize::try_from(length).unwrap_or(usize::MAX) } else { 0 };
    let Some(_held) = room_for(socket, exact) else {
        socket.write_all(&Refusal::NoMemory.answer()).await?;
        socket.shutdown().await?;
        return Ok(None);
    };
    let mut out = Vec::with_capacity(ROOM + exact.min(TOGETHER));
    let said = write_head(&mut out, &head, framing, now);
    let goes_on = said && asks.keeps && !framing.ends_connection() && !shutdown.is_requested();
    if said && !goes_on {
        out.extend_from_slice(b"connection: close\r\n");
    } else if goes_on && asks.is_old {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
    let (mut body, mut is_long) = (pin!(body), exact > TOGETHER);
    while framing.awaits_more() {
        let mut next = pin!(poll_fn(|context| poll_data(body.as_mut(), context)));
        let data = match poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await {
            Poll::Ready(data) => data,
            Poll::Pending => {
                is_long = true;
                socket.write_all(&out).await?;
                socket.flush().await?;
                // The body may take hours, and there may be thousands of them.
                out = Vec::new();
                socket.shrink();
                let Some(data) = attended(socket, next).await? else { return Ok(None) };
                data
            }
        };
        let Some(data) = data else {
            framing.end(&mut out)?;
            break;
        };
        put(socket, &mut out, data?, &mut framing).await?;
    }
    socket.write_all(&out).await?;
    if !goes_on {
        socket.shutdown().await?;
        return Ok(None);
    }
    socket.flush().await?;
    Ok(Some(if is_long { Instant::now() } else { now }))
}

/// Answers to strangers count in the strangers' part, so that they cannot leave much of them unread. Answers to callers
/// are counted already.
fn room_for(socket: &Socket, exact: usize) -> Option<Held> {
    let part = &account().strangers;
    if exact <= USUAL || socket.place.is_trusted() { Some(Held::none(part)) } else { Held::of(part, exact) }
}

/// Writes a piece of the body, or leaves it in `out` for later.
async fn put(socket: &mut Socket, out: &mut Vec<u8>, mut data: impl Buf, framing: &mut Framing) -> io::Result<()> {
    let length = data.remaining();
    if length == 0 {
        return Ok(());
    }
    framing.begin(out, length)?;
    if length <= TOGETHER {
        while data.has_remaining() {
            let piece = data.chunk();
            out.extend_from_slice(piece);
            let length = piece.len();
            data.advance(length);
        }
    } else {
        socket.write_all_buf(&mut out.as_slice().chain(data)).await?;
        out.clear();
    }
    if let Framing::Chunks = framing {
        out.extend_from_slice(b"\r\n");
    }
    if out.len() > TOGETHER {
        socket.write_all(out).await?;
        out.clear();
    }
    Ok(())
}

/// Writes a head except its last line. False if the answer demands that the connection closes.
fn write_head(out: &mut Vec<u8>, head: &http::response::Parts, framing: Framing, now: Instant) -> bool {
    let mut goes_on = true;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in &head.headers {
        if FRAMING.contains(name) {
            continue;
        }
        if *name == header::CONNECTION {
            goes_on &= !value.as_bytes().eq_ignore_ascii_case(b"close");
        }
        field(out, name.as_str(), value.as_bytes());
    }
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) | Framing::Told(length) => {
            field(out, "content-length", itoa::Buffer::new().format(length).as_bytes())
        }
        Framing::Chunks => field(out, "transfer-encoding", b"chunked"),
    }
    if !head.headers.contains_key(header::DATE) {
        DATE.with_borrow_mut(|date| field(out, "date", date.at(now).as_bytes()));
    }
    goes_on
}

/// The body length of an answer to `GET`: a service that answers `HEAD` has often dropped the body already.
fn told(head: &http::response::Parts) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The headers that the body itself determines.
const FRAMING: [HeaderName; 2] = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

thread_local! {
    static DATE: RefCell<Date> = RefCell::default();
}

/// The date as text, which is the same for a second.
#[derive(Default)]
struct Date {
    text: String,
    until: Option<Instant>,
}

impl Date {
    fn at(&mut self, now: Instant) -> &str {
        if self.until.is_none_or(|until| until <= now) {
            let date = SystemTime::now();
            let within = date.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
            self.until = Some(now + Duration::from_secs(1) - Duration::from_nanos(within.into()));
            self.text = httpdate::fmt_http_date(date);
        }
        &self.text
    }
}

/// The value of `date` for an answer.
pub(super) fn date(now: Instant) -> HeaderValue {
    DATE.with_borrow_mut(|date| HeaderValue::from_str(date.at(now))).unwrap_or(HeaderValue::from_static(""))
}

/// The next piece of a body.
pub(super) fn poll_data<B>(mut body: Pin<&mut B>, context: &mut Context<'_>) -> Poll<Option<Result<B::Data, BoxError>>>
where
    B: Body<Error: Into<BoxError>>,
{
    loop {
        let Some(frame) = ready!(body.as_mut().poll_frame(context)) else { return Poll::Ready(None) };
        match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => return Poll::Ready(Some(Ok(data))),
            // Other frames are trailers, which are not forwarded.
            Ok(Err(_)) => {}
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        }
    }
}

// === impl Framing ===

impl Framing {
    fn of(head: &http::response::Parts, body: &impl Body, asks: Asks) -> Self {
        if matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Self::None;
        }
        match body.size_hint().exact() {
            Some(exact) if asks.is_head => Self::Told(told(head).unwrap_or(exact)),
            None if asks.is_head => Self::None,
            Some(exact) => Self::Length(exact),
            None if asks.is_old => Self::UntilClose,
            None => Self::Chunks,
        }
    }

    fn awaits_more(self) -> bool {
        !matches!(self, Self::None | Self::Told(_) | Self::Length(0))
    }

    fn ends_connection(self) -> bool {
        matches!(self, Self::UntilClose)
    }

    /// Starts a piece.
    fn begin(&mut self, out: &mut Vec<u8>, length: usize) -> io::Result<()> {
        match self {
            Self::None | Self::Told(_) | Self::UntilClose => {}
            Self::Length(left) => *left = left.checked_sub(length as u64).ok_or(io::ErrorKind::InvalidData)?,
            Self::Chunks => out.extend_from_slice(format!("{length:x}\r\n").as_bytes()),
        }
        Ok(())
    }

    /// Ends the body.
    fn end(self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::None | Self::Told(_) | Self::UntilClose | Self::Length(0) => Ok(()),
            Self::Length(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Self::Chunks => {
                out.extend_from_slice(b"0\r\n\r\n");
                Ok(())
            }
        }
    }
}
