//! The device's task: one loop for each queue.

use std::{future::pending, io::Read, ops::Range, time::Duration};

use tokio::time::sleep;

use super::{
    super::{
        DeviceError, Driver,
        queue::{Chain, QueueError, VirtQueue},
    },
    Balloon, DEFLATE, F_PAGE_REPORTING, INFLATE, REPORTING, STATISTICS,
    pages::{check, give_back, ranges},
    state::Begun,
    statistics::{ENTRY, Statistics},
};

/// Most pages of a request, 256 MiB. (Linux names 256.)
const PAGES_MAX: usize = 1 << 16;
/// Most ranges of a report.
const RANGES_MAX: usize = 1024;
/// Most statistics that are read; there are ten.
const STATISTICS_MAX: usize = 64;

/// Serves a driver until it does what it must not.
pub(super) async fn serve(begun: Begun, mut driver: Driver) -> Result<(), DeviceError> {
    let (inflate, deflate) = (driver.take(INFLATE)?, driver.take(DEFLATE)?);
    // Both may be left out by the driver.
    let statistics = driver.take(STATISTICS).ok();
    let reporting = driver.take(REPORTING).ok();
    let reporting = reporting.filter(|_| driver.features & F_PAGE_REPORTING != 0);
    let (balloon, driver) = (begun.balloon(), &driver);
    let ended = tokio::select! {
        ended = serve_pages(driver, inflate, |queue, chain| Ok(ranges(numbers(queue, chain)?))) => ended,
        ended = serve_pages(driver, deflate, |queue, chain| {
            // The host gives a page when it is touched: there is nothing to be done, but for what must not be.
            check(queue.memory(), &ranges(numbers(queue, chain)?))?;
            Ok(Vec::new())
        }) => ended,
        ended = serve_pages(driver, reporting, |_, chain| reported(chain)) => ended,
        ended = serve_statistics(balloon, driver, statistics) => ended,
        () = balloon.tell() => Ok(()),
    };
    ended
}

/// Gives back what each request names, by `read`.
async fn serve_pages(
    driver: &Driver,
    queue: impl Into<Option<VirtQueue>>,
    read: impl Fn(&VirtQueue, &Chain) -> Result<Vec<Range<u64>>, QueueError>,
) -> Result<(), DeviceError> {
    let Some(mut queue) = queue.into() else {
        return pending().await;
    };
    loop {
        queue.kicked().await?;
        loop {
            let inside = driver.gate.enter().await;
            let Some(chain) = queue.pop()? else { break };
            let ranges = read(&queue, &chain)?;
            check(queue.memory(), &ranges)?;
            let memory = queue.memory().clone();
            let work = move || give_back(&memory, &ranges);
            // Before the driver hears of it: it may use reported pages from then on.
            let (_inside, ()) = driver.blocking.run(inside, work).await?;
            queue.push(&chain, 0)?;
        }
    }
}

/// The numbers of the pages that a request names.
fn numbers(queue: &VirtQueue, chain: &Chain) -> Result<Vec<u32>, QueueError> {
    let mut reader = queue.reader(chain)?;
    let len = reader.available_bytes();
    if len / size_of::<u32>() > PAGES_MAX {
        return Err(QueueError::Request("for the balloon names too many pages"));
    }
    let mut bytes = vec![0; len];
    reader.read_exact(&mut bytes)?;
    let (numbers, rest) = bytes.as_chunks();
    if !rest.is_empty() {
        return Err(QueueError::Request(
            "for the balloon has half a page's number",
        ));
    }
    Ok(numbers.iter().copied().map(u32::from_le_bytes).collect())
}

/// The ranges that a report consists of: they are its parts.
fn reported(chain: &Chain) -> Result<Vec<Range<u64>>, QueueError> {
    let mut ranges = Vec::new();
    for part in chain.clone() {
        let start = part.addr().0;
        let end = start.checked_add(part.len().into());
        let end = end.ok_or(QueueError::Request(
            "for the balloon names what is no memory",
        ))?;
        if ranges.len() == RANGES_MAX {
            return Err(QueueError::Request("for the balloon has too many parts"));
        }
        ranges.push(start..end);
    }
    Ok(ranges)
}

/// The driver always has one request there, with its statistics; given back, it comes again with new ones.
async fn serve_statistics(
    balloon: &Balloon,
    driver: &Driver,
    queue: Option<VirtQueue>,
) -> Result<(), DeviceError> {
    let Some(mut queue) = queue else {
        return pending().await;
    };
    let mut held: Option<Chain> = None;
    loop {
        tokio::select! {
            kicked = queue.kicked() => kicked?,
            () = interval(balloon.config.statistics_interval), if held.is_some() => {
                let _inside = driver.gate.enter().await;
                if let Some(chain) = held.take() {
                    queue.push(&chain, 0)?;
                }
            }
        }
        let _inside = driver.gate.enter().await;
        while let Some(chain) = queue.pop()? {
            let mut reader = queue.reader(&chain)?;
            let mut bytes = vec![0; reader.available_bytes().min(ENTRY * STATISTICS_MAX)];
            reader.read_exact(&mut bytes)?;
            drop(reader);
            balloon.set_statistics(Statistics::read(&bytes));
            if held.replace(chain).is_some() {
                return Err(QueueError::Request("for statistics is one too many").into());
            }
        }
    }
}

async fn interval(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => pending().await,
    }
}
