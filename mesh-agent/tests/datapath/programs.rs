// SPDX-License-Identifier: Apache-2.0

//! The tc programs on crafted packets, by `BPF_PROG_TEST_RUN`: packet in, verdict out.

use std::net::IpAddr;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap},
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use mesh_common::{Endpoint, MeshEntry, PodConfig, PodState, Tuple, names};

const PASS: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

const ELSEWHERE: &str = "192.0.2.9";
const MESH_V4: &str = "192.0.2.1";
const MESH_V6: &str = "2001:db8::1";

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh"));

fn ip(text: &str) -> IpAddr {
    text.parse().expect("addresses in these tests parse")
}

/// The programs with a pod that is captured, and two mesh destinations on port 80.
fn programs(log_level: &'static u8) -> Ebpf {
    let mut ebpf = EbpfLoader::new()
        .override_global(names::LOG_LEVEL, log_level, true)
        .load(OBJECT)
        .expect("the maps can be made");
    let map = ebpf.map_mut(names::POD).expect("the object has it");
    let mut pod: Array<_, PodConfig> = map.try_into().expect("it is an array");
    let config = PodConfig {
        state: PodState::ACTIVE.0,
        ..PodConfig::default()
    };
    pod.set(0, &config, 0).expect("it has one slot");
    let map = ebpf.map_mut(names::MESH).expect("the object has it");
    let mut mesh: HashMap<_, Endpoint, u32> = map.try_into().expect("it is a hash map");
    for address in [MESH_V4, MESH_V6] {
        let capture = u32::from(MeshEntry::CAPTURE.0);
        mesh.insert(&Endpoint::new(ip(address), 80), &capture, 0)
            .expect("it is empty");
    }
    let map = ebpf.map_mut(names::EXPECT).expect("the object has it");
    let mut expect: HashMap<_, Tuple, u32> = map.try_into().expect("it is a hash map");
    for (source, destination) in [("192.0.2.200", MESH_V4), ("2001:db8::200", MESH_V6)] {
        let tuple = Tuple {
            source: Endpoint::new(ip(source), 2048),
            destination: Endpoint::new(ip(destination), 80),
        };
        expect.insert(&tuple, &1, 0).expect("it is empty");
    }
    for name in [names::CAPTURE_OUTBOUND, names::GUARD_INBOUND] {
        program(&mut ebpf, name).load().expect("it loads");
    }
    ebpf
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program = ebpf.program_mut(name).expect("the object has it");
    program.try_into().expect("it is a classifier")
}

/// A TCP header without options.
fn tcp(ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    bytes
}

/// A frame; `next` and `payload` are what follows the IP header.
fn frame(source: &str, destination: &str, next: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    let length = u16::try_from(payload.len()).expect("packets here are short");
    match (ip(source), ip(destination)) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend([8, 0, 0x45, 0]);
            bytes.extend((length + 20).to_be_bytes());
            bytes.extend([0, 1]);
            bytes.extend(fragment.to_be_bytes());
            bytes.extend([64, next, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([next, 64]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        _ => panic!("one family per packet"),
    }
    bytes.extend(payload);
    bytes
}

#[track_caller]
fn check(name: &str, packet: &[u8], want: i32) {
    let mut ebpf = programs(&0);
    let mut out = vec![0; packet.len()];
    let result = program(&mut ebpf, name)
        .test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        })
        .expect("the kernel runs it");
    assert_eq!(result.return_value.cast_signed(), want);
    if want == REDIRECT {
        assert_eq!(out[..6], [0; 6], "the link address is cleared");
        assert_eq!(out[6..], packet[6..], "nothing else is touched");
    } else {
        assert_eq!(out, packet);
    }
}

const TCP: u8 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const OWN_V4: &str = "192.0.2.100";
const OWN_V6: &str = "2001:db8::100";

#[test]
fn egress_redirects_mesh_syns_only() {
    let to_mesh = tcp((40_000, 80), SYN);
    let to_other_port = tcp((40_000, 81), SYN);
    let later = tcp((40_000, 80), ACK);
    for (own, mesh) in [(OWN_V4, MESH_V4), (OWN_V6, MESH_V6)] {
        for (payload, want) in [(&to_mesh, REDIRECT), (&to_other_port, PASS), (&later, PASS)] {
            let packet = frame(own, mesh, TCP, 0, payload);
            check(names::CAPTURE_OUTBOUND, &packet, want);
        }
    }
    let elsewhere = frame(OWN_V4, ELSEWHERE, TCP, 0, &to_mesh);
    check(names::CAPTURE_OUTBOUND, &elsewhere, PASS);
    let udp = frame(OWN_V4, MESH_V4, 17, 0, &to_mesh);
    check(names::CAPTURE_OUTBOUND, &udp, PASS);
}

#[test]
fn egress_reads_through_extension_headers() {
    // Hop-by-hop, destination options, routing: eight bytes each, then TCP.
    let mut payload = vec![60, 0, 1, 4, 0, 0, 0, 0];
    payload.extend([43, 0, 1, 4, 0, 0, 0, 0]);
    payload.extend([TCP, 0, 0, 0, 0, 0, 0, 0]);
    payload.extend(tcp((40_000, 80), SYN));
    let packet = frame(OWN_V6, MESH_V6, 0, 0, &payload);
    check(names::CAPTURE_OUTBOUND, &packet, REDIRECT);
}

#[test]
fn egress_redirects_first_fragments() {
    const MORE: u16 = 0x2000;
    let syn = tcp((40_000, 80), SYN);
    let packet = frame(OWN_V4, MESH_V4, TCP, MORE, &syn);
    check(names::CAPTURE_OUTBOUND, &packet, REDIRECT);
    let mut payload = vec![TCP, 0, 0, 1, 0, 0, 0, 9];
    payload.extend(&syn);
    let packet = frame(OWN_V6, MESH_V6, 44, 0, &payload);
    check(names::CAPTURE_OUTBOUND, &packet, REDIRECT);
}

#[test]
fn tcp_that_cannot_be_read_is_dropped_both_ways() {
    let cut = &tcp((2048, 80), SYN)[..8];
    let mut chain = Vec::new();
    for _ in 0..6 {
        chain.extend([60, 0, 1, 4, 0, 0, 0, 0]);
    }
    chain.extend([TCP, 0, 1, 4, 0, 0, 0, 0]);
    chain.extend(tcp((2048, 80), SYN));
    for packet in [
        frame("192.0.2.200", MESH_V4, TCP, 0x2000, cut),
        frame("2001:db8::200", MESH_V6, TCP, 0, cut),
        frame("2001:db8::200", MESH_V6, 60, 0, &chain),
    ] {
        check(names::CAPTURE_OUTBOUND, &packet, DROP);
        check(names::GUARD_INBOUND, &packet, DROP);
    }
}

#[test]
fn ingress_drops_expected_tuples_only() {
    let (claimed, other) = (tcp((2048, 80), SYN), tcp((2049, 80), SYN));
    for (source, mesh) in [("192.0.2.200", MESH_V4), ("2001:db8::200", MESH_V6)] {
        check(
            names::GUARD_INBOUND,
            &frame(source, mesh, TCP, 0, &claimed),
            DROP,
        );
        check(
            names::GUARD_INBOUND,
            &frame(source, mesh, TCP, 0, &other),
            PASS,
        );
    }
    let later_fragment = frame("192.0.2.200", MESH_V4, TCP, 0x0001, &claimed);
    check(names::GUARD_INBOUND, &later_fragment, PASS);
}

#[test]
fn programs_load_with_logging_on() {
    const DEBUG: u8 = 4;
    drop(programs(&DEBUG));
}
