//! The device's task: one lane for each queue, and one that tells the driver of its link.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::watch;

use super::{
    super::{DeviceError, Driver, interrupt::Interrupt, worker::Gate},
    Backend, Card, F_MQ, F_STATUS,
    card::Link,
    control::{self, Control},
    receive::Receiver,
    transmit::Transmitter,
};

/// What the lanes of a driver share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) card: Arc<Card>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) gate: Gate,
    /// The features that were agreed on.
    pub(super) features: u64,
    /// How many pairs are in use.
    pub(super) pairs: watch::Sender<u16>,
}

type Lane = Pin<Box<dyn Future<Output = Result<Infallible, DeviceError>> + Send>>;

/// Serves a driver until it does what it must not.
pub(super) async fn serve(card: Arc<Card>, mut driver: Driver) -> Result<(), DeviceError> {
    let shared = Shared {
        backend: card.backend()?,
        gate: driver.gate.clone(),
        features: driver.features,
        pairs: watch::Sender::new(1),
        card,
    };
    let link = shared.card.watch_link();
    let told = shared.card.link();
    start(&shared, &driver).await?;

    let pairs = match driver.features & F_MQ {
        0 => 1,
        _ => shared.card.pairs,
    };
    let mut lanes: Vec<Lane> = Vec::new();
    for pair in 0..pairs {
        let (receive, send) = (2 * usize::from(pair), 2 * usize::from(pair) + 1);
        match (driver.take(receive), driver.take(send)) {
            (Ok(receive), Ok(send)) => {
                lanes.push(Box::pin(Receiver::new(&shared, pair, receive).run()));
                lanes.push(Box::pin(Transmitter::new(&shared, pair, send).run()));
            }
            // The first pair there is in any case.
            (Err(error), _) | (_, Err(error)) if pair == 0 => return Err(error),
            _ => {}
        }
    }
    // Where it is not negotiated, nobody needs it.
    if let Ok(queue) = driver.take(2 * usize::from(pairs)) {
        let control = Control {
            blocking: driver.blocking.clone(),
            pairs_max: pairs,
        };
        lanes.push(Box::pin(control::run(shared.clone(), control, queue)));
    }
    if driver.features & F_STATUS != 0 {
        lanes.push(Box::pin(tell_link(link, told, driver.interrupt.clone())));
    }
    poll_fn(|context| poll(&mut lanes, context)).await
}

/// Connects the card's back end, and has it know the driver's features.
async fn start(shared: &Shared, driver: &Driver) -> Result<(), DeviceError> {
    let inside = shared.gate.enter().await;
    let (backend, features) = (shared.backend.clone(), shared.features);
    let work = move || backend.start(features);
    let (inside, started) = driver.blocking.run(inside, work).await?;
    shared.card.set_connected(&started);
    drop(inside);
    Ok(())
}

/// Until one of them fails.
fn poll(lanes: &mut [Lane], context: &mut Context<'_>) -> Poll<Result<(), DeviceError>> {
    for lane in lanes {
        if let Poll::Ready(Err(error)) = lane.as_mut().poll(context) {
            return Poll::Ready(Err(error));
        }
    }
    Poll::Pending
}

/// Interrupts the driver when its link, which it found as `told`, goes up or down.
async fn tell_link(
    mut link: watch::Receiver<Link>,
    told: Link,
    interrupt: Arc<Interrupt>,
) -> Result<Infallible, DeviceError> {
    let mut told = told.is_up();
    loop {
        if link.wait_for(|link| link.is_up() != told).await.is_err() {
            // The card is gone, and with it whoever could change it.
            return std::future::pending().await;
        }
        told = !told;
        interrupt.configuration();
    }
}
