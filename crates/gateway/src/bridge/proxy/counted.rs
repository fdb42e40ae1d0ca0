//! A body that holds its request's place among those under way until it is read to the end or dropped.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

#[derive(Debug)]
pub(super) struct Counted {
    body: Incoming,
    _permit: OwnedSemaphorePermit,
}

impl Counted {
    pub(super) const fn new(body: Incoming, permit: OwnedSemaphorePermit) -> Self {
        Self {
            body,
            _permit: permit,
        }
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
