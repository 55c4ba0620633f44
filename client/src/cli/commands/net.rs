//! The commands on network cards of a live machine.

use super::{
    super::{
        args::{AddNet, Link, Net, RemoveNet, SetLink},
        failure::Failure,
        output::Output,
    },
    device,
    machines::show,
};
use crate::{Client, v1::device_add_request::Device};

pub(super) async fn run(client: &Client, command: &Net, out: &mut Output) -> Result<(), Failure> {
    match command {
        Net::Link(SetLink { name, net, link }) => {
            let reply = client.set_link(name, net, *link == Link::Up).await;
            let what = format!("set the link of '{net}' of '{name}'");
            show(name, &reply.map_err(Failure::call(what))?, out)
        }
        Net::Add(AddNet { name, net }) => {
            let card = Device::Net(net.clone());
            device::add(client, name, card, "network card", out).await
        }
        Net::Remove(RemoveNet { name, net }) => device::remove(client, name, net, out).await,
    }
}
