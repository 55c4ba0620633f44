//! The processor time of a machine's vCPUs: in `GetVm`, `ListVms` and a scrape.

use std::time::{Duration, Instant};

use serde_json::Value;
use vmctl::{Client, v1};
use vmd_tests::{DEADLINE, request, soon};

use super::scrape::Watched;
use vmd_tests::guests::Hostile;

/// So much is work, and no accident.
const WORK: Duration = Duration::from_millis(300);

/// What machine `name` has used so far, as `GetVm` tells.
async fn used(client: &Client, name: &str) -> Duration {
    let (_, stats) = soon("get", client.get_with_stats(name)).await.unwrap();
    Duration::from_nanos(stats.cpu_time_nanos)
}

/// Waits until machine `name` has used [`WORK`] more than `before`, and never less than it had; what it has used then. It
/// is asked again and again: nothing tells of this.
async fn works(client: &Client, name: &str, before: Duration) -> Duration {
    let (begun, mut last) = (Instant::now(), before);
    while last < before + WORK {
        let now = used(client, name).await;
        assert!(now >= last, "{name}: {now:?} after {last:?}");
        assert!(begun.elapsed() < DEADLINE, "{name}: still {now:?}");
        last = now;
    }
    last
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guest_that_spins_uses_a_processor_and_one_that_halts_does_not() {
    let watched = Watched::start().await;
    let daemon = &watched.daemon;
    // It has said that it is there, and halts until somebody types.
    let mut halts = daemon.guest_of(request("halts")).await;
    let client = halts.client.clone();
    let mut spinning = request("spins");
    let firmware = Hostile::Spin.write_to(daemon.directory());
    let definition = spinning.definition.get_or_insert_default();
    definition.firmware = firmware.to_str().unwrap().to_owned();
    definition.vcpus = Some(2);
    soon("create", client.create(spinning)).await.unwrap();

    let idle = used(&client, "halts").await;
    let spun = works(&client, "spins", used(&client, "spins").await).await;
    let idled = used(&client, "halts").await - idle;
    assert!(idled < WORK / 3, "it used {idled:?}");

    // All ways to ask tell the same count.
    let request = v1::ListVmsRequest {
        with_cpu_time: true,
        ..Default::default()
    };
    let list = soon("list", client.list_page(request)).await.unwrap();
    let names: Vec<_> = list.vms.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["halts", "spins"]);
    let [its_idle, its_spun] = list.cpu_time_nanos[..] else {
        panic!("{:?}", list.cpu_time_nanos);
    };
    assert!(Duration::from_nanos(its_spun) >= spun);
    let seconds = |name| [("vm", name)];
    let scraped = watched.scrape().await;
    let scraped = |name| scraped.value("vmd_vm_cpu_seconds_total", &seconds(name));
    assert!(scraped("spins") >= Duration::from_nanos(its_spun).as_secs_f64());
    assert!(scraped("halts") >= Duration::from_nanos(its_idle).as_secs_f64());
    assert!(scraped("halts") < scraped("spins"));
    let json = daemon.vmctl(&["-o", "json", "status", "spins"]).await;
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json["cpu_time_nanos"].as_u64() > Some(its_spun), "{json}");
    let plain = soon("list", client.list()).await.unwrap();
    assert!(plain.cpu_time_nanos.is_empty());

    // The count goes on over stops, resets, ends and starts.
    halts.serves(Client::system_reset, &["RESET"]).await;
    assert!(used(&client, "halts").await >= Duration::from_nanos(its_idle));
    soon("reset", client.system_reset("spins")).await.unwrap();
    let spun = works(&client, "spins", spun).await;
    soon("quit", client.quit("spins")).await.unwrap();
    let ended = used(&client, "spins").await;
    assert!(ended >= spun);
    assert_eq!(used(&client, "spins").await, ended);
    let scraped = watched.scrape().await;
    assert_eq!(
        scraped.value("vmd_vm_cpu_seconds_total", &seconds("spins")),
        ended.as_secs_f64()
    );
    soon("start", client.start("spins", false)).await.unwrap();
    works(&client, "spins", ended).await;
}
