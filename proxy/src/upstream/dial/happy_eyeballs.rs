//! Connecting to an endpoint that has several addresses (RFC 8305): one after the other, each with a head start before the
//! next; the first that answers is taken, and the others are let go.
//!
//! Families take turns, beginning with that of the first address. An address that fails makes room for the next at once.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::sleep;

/// The head start, as Envoy's.
const HEAD_START: Duration = Duration::from_millis(300);

/// Connects to one of these addresses; the error is that of the last that failed.
pub(crate) async fn connect_first<T, F>(
    first: SocketAddr,
    further: &[SocketAddr],
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    if further.is_empty() {
        return connect(first).await;
    }
    let mut waiting = in_turn(first, further).into_iter();
    let mut connecting = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match waiting.next() {
            Some(address) => connecting.push(connect(address)),
            None if connecting.is_empty() => return Err(last),
            None => {}
        }
        // The next one begins when one has failed, or the last one's head start is over.
        tokio::select! {
            biased;
            ended = connecting.next() => match ended {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(error)) => last = error,
                None => {}
            },
            () = sleep(HEAD_START), if waiting.len() > 0 => {}
        }
    }
}

/// The addresses in the order in which they are tried.
fn in_turn(first: SocketAddr, further: &[SocketAddr]) -> Vec<SocketAddr> {
    let all = || std::iter::once(&first).chain(further);
    let mut same = all().filter(|a| a.is_ipv4() == first.is_ipv4());
    let mut other = all().filter(|a| a.is_ipv4() != first.is_ipv4());
    let mut order = Vec::with_capacity(further.len() + 1);
    loop {
        let pair = [same.next(), other.next()];
        if pair == [None, None] {
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::time::Instant;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns() {
        let first = address("10.0.0.1:80");
        let further = ["10.0.0.2:80", "10.0.0.3:80", "[fd00::1]:80"].map(address);
        let order = in_turn(first, &further).into_iter().map(|a| a.to_string());
        let expected = ["10.0.0.1:80", "[fd00::1]:80", "10.0.0.2:80", "10.0.0.3:80"];
        assert_eq!(order.collect::<Vec<_>>(), expected);
    }

    /// Who was tried when, in milliseconds, and what came of it. `outcomes`: milliseconds until a connection, or until none.
    async fn race(outcomes: &[Result<u64, u64>]) -> (io::Result<u16>, Vec<(u16, u64)>) {
        let port = |n: usize| address(&format!("10.0.0.1:{}", n + 1));
        let further: Vec<_> = (1..outcomes.len()).map(port).collect();
        let (begun, tried) = (Instant::now(), Rc::new(RefCell::new(Vec::new())));
        let connect = |address: SocketAddr| {
            let outcome = outcomes[usize::from(address.port()) - 1];
            let at = begun.elapsed().as_millis() as u64;
            tried.borrow_mut().push((address.port(), at));
            async move {
                let (Ok(millis) | Err(millis)) = outcome;
                sleep(Duration::from_millis(millis)).await;
                match outcome {
                    Ok(_) => Ok(address.port()),
                    Err(_) => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
                }
            }
        };
        let outcome = connect_first(port(0), &further, connect).await;
        let tried = tried.borrow().clone();
        (outcome, tried)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_answers_is_taken() {
        let (outcome, tried) = race(&[Ok(10), Ok(10)]).await;
        assert_eq!((outcome.unwrap(), tried), (1, vec![(1, 0)]));
        // One that is silent loses its head start, and may still win.
        let (outcome, tried) = race(&[Ok(5000), Ok(20)]).await;
        assert_eq!((outcome.unwrap(), tried), (2, vec![(1, 0), (2, 300)]));
        let (outcome, tried) = race(&[Ok(310), Ok(5000), Ok(1)]).await;
        assert_eq!((outcome.unwrap(), tried), (1, vec![(1, 0), (2, 300)]));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_makes_room_at_once() {
        let (outcome, tried) = race(&[Err(5), Err(5), Ok(1)]).await;
        assert_eq!(
            (outcome.unwrap(), tried),
            (3, vec![(1, 0), (2, 5), (3, 10)])
        );
        let (outcome, tried) = race(&[Err(5), Err(7)]).await;
        assert_eq!(
            outcome.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert_eq!(tried, [(1, 0), (2, 5)]);
    }
}
