//! Deadlines: a call that is not answered in the time that its client gave it (`grpc-timeout`) ends with
//! DEADLINE_EXCEEDED.
//!
//! The handler is dropped then, as it is when a client cancels its call. What that leaves is defined by what it waits
//! for: an actor that has not come to a message nobody waits for any more passes it over, and serves one that it has
//! begun to the end; a creation, and a call with a request id, go on in a task of their own.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::sleep;
use tonic::{
    body::Body,
    codegen::http::{HeaderMap, Request, Response},
};
use tower::{Layer, Service, layer::layer_fn};

use super::errors;

/// Keeps the deadlines of the calls to a service.
#[derive(Clone, Debug)]
pub(crate) struct Deadlines<S>(S);

/// Puts [`Deadlines`] around services.
pub(crate) fn layer<S>() -> impl Layer<S, Service = Deadlines<S>> + Clone {
    layer_fn(Deadlines)
}

impl<S, B> Service<Request<B>> for Deadlines<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The time begins now: tonic keeps it as well, from a little later on, and would answer CANCELLED.
        let over = timeout(request.headers()).map(sleep);
        let answer = self.0.call(request);
        Box::pin(async move {
            let Some(over) = over else {
                return answer.await;
            };
            tokio::select! {
                biased;
                answer = answer => answer,
                () = over => Ok(errors::deadline_exceeded().into_http()),
            }
        })
    }
}

/// The time that the client gives: up to eight digits and a unit. What cannot be read is no time, as with tonic.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending};

    use tonic::Code;
    use tower::service_fn;

    use super::*;

    fn request(time: &str) -> Request<()> {
        Request::builder()
            .header("grpc-timeout", time)
            .body(())
            .unwrap()
    }

    #[tokio::test]
    async fn a_call_that_takes_too_long_is_answered_in_its_time() {
        let never = service_fn(|_: Request<()>| pending::<Result<Response<Body>, Infallible>>());
        let answer = layer().layer(never).call(request("1m")).await.unwrap();
        let refusal = tonic::Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(refusal.code(), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn an_answer_that_is_there_counts() {
        let at_once =
            service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(Body::empty())));
        for time in ["0n", "1S", "99999999H", "soon"] {
            let answer = layer().layer(at_once).call(request(time)).await.unwrap();
            assert!(tonic::Status::from_header_map(answer.headers()).is_none());
        }
    }

    #[test]
    fn times_are_read() {
        let read = |text: &str| timeout(request(text).headers());
        for (text, time) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("30S", Duration::from_secs(30)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("0n", Duration::ZERO),
            ("99999999S", Duration::from_secs(99_999_999)),
        ] {
            assert_eq!(read(text), Some(time), "{text}");
        }
        for bad in [
            "",
            "S",
            "1",
            "1s",
            "+1S",
            "-1S",
            "1.5S",
            "123456789S",
            " 1S",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
