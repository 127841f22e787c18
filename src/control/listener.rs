//! The admin server's listener: few connections at a time, and none for ever, so that scrapers that hang or
//! somebody who only connects cannot use up the process's file descriptors.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Connections at a time; more wait in the kernel's backlog until one ends.
const CONNECTIONS_MAX: usize = 64;

/// How long a connection may live. Scrapers connect again without noticing.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);

/// How long to wait when the process is out of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(200);

/// A listener with bounds.
pub(super) struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener) -> Bounded {
        Bounded { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl Listener for Bounded {
    type Io = Mortal;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Mortal, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let deadline = Box::pin(tokio::time::sleep(CONNECTION_TIME_MAX));
                    return (Mortal { stream, deadline, respite: Respite::default(), _place: place }, peer);
                }
                Err(_) => tokio::time::sleep(ACCEPT_BACKOFF).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// What a page may grant its connection: more time, beyond its deadline, once.
#[derive(Clone, Default)]
pub(super) struct Respite(Arc<AtomicU64>);

impl Respite {
    /// Lets the connection live so much longer.
    pub fn grant(&self, time: Duration) {
        self.0.store(time.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, Bounded>> for Respite {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Respite {
        stream.io().respite.clone()
    }
}

/// A connection that ends at its deadline: reading fails then, which closes it.
pub(super) struct Mortal {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    respite: Respite,
    _place: OwnedSemaphorePermit,
}

impl Mortal {
    fn expired(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            if self.deadline.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            match self.respite.0.swap(0, Ordering::Relaxed) {
                0 => return Err(io::ErrorKind::TimedOut.into()),
                millis => {
                    let later = tokio::time::Instant::now() + Duration::from_millis(millis);
                    self.deadline.as_mut().reset(later);
                }
            }
        }
    }
}

impl AsyncRead for Mortal {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.expired(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Mortal {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.expired(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
