"""Compose files that want more of a device than containers of their own, each with the line that would allow it."""

SERVICE = {
    # what the service of a compose file says: the line of `workloads:` that would allow it
    "privileged: true": "privileged: true",
    'privileged: "yes"': "privileged: true",
    "post_start: [{command: id, user: root, privileged: true}]": "privileged: true",
    "pre_stop: [{command: id, privileged: true}]": "privileged: true",
    "network_mode: host": "hostNetwork: true",
    'network_mode: "container:agent"': 'composeKeys: ["network_mode=container:agent"]',
    "network_mode: ns:/proc/1/ns/net": 'composeKeys: ["network_mode=ns:/proc/1/ns/net"]',
    "pid: host": "hostPid: true",
    'pid: "container:agent"': 'composeKeys: ["pid=container:agent"]',
    "ipc: host": "hostIpc: true",
    'ipc: "container:agent"': 'composeKeys: ["ipc=container:agent"]',
    "uts: host": 'composeKeys: ["uts=host"]',
    "cgroup: host": 'composeKeys: ["cgroup=host"]',
    "cgroup_parent: /system.slice": 'composeKeys: ["cgroup_parent=/system.slice"]',
    "userns_mode: host": 'composeKeys: ["userns_mode=host"]',
    "cap_add: [ALL]": "capabilities: [ALL]",
    "cap_add: [sys_admin]": "capabilities: [SYS_ADMIN]",
    "cap_add: [CAP_SYS_PTRACE]": "capabilities: [SYS_PTRACE]",
    "devices: [/dev/sda]": 'devices: ["/dev/sda"]',
    'devices: ["/dev/net/../sda:/dev/tty1:rwm"]': 'devices: ["/dev/net/../sda"]',
    "devices: [/dev]": 'devices: ["/dev"]',
    "devices: [vendor.example/disk=all]": 'devices: ["vendor.example/disk=all"]',
    "devices: [{source: /dev/mem, target: /dev/mem}]": 'devices: ["/dev/mem"]',
    'device_cgroup_rules: ["b 8:* rmw"]': 'composeKeys: ["device_cgroup_rules"]',
    "gpus: all": 'devices: ["gpu"]',
    "gpus: [{driver: nvidia, count: 1}]": 'devices: ["gpu"]',
    "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}": 'devices: ["gpu"]',
    "deploy: {resources: {reservations: {devices: [{driver: cdi, device_ids: [x.example/d=a], capabilities: [c]}]}}}": (
        'devices: ["x.example/d=a"]'
    ),
    "volumes: [/:/host]": 'hostPaths: ["/"]',
    "volumes: [/etc:/host:ro]": 'hostPaths: ["/etc:ro"]',
    "volumes: [/srv/../etc/ssh:/host]": 'hostPaths: ["/srv/../etc/ssh"]',
    "volumes: [~/.ssh:/keys]": 'hostPaths: ["~/.ssh"]',
    "volumes: [../../../../etc:/host:ro]": 'hostPaths: ["../../../../etc:ro"]',
    "volumes: [{type: bind, source: /etc, target: /host}]": 'hostPaths: ["/etc"]',
    "volumes: [{type: bind, source: ./x, target: /y, bind: {propagation: rshared}}]": (
        'composeKeys: ["volumes.bind.propagation=rshared"]'
    ),
    "volumes: [{type: volume, source: /etc, target: /host}]": 'hostPaths: ["/etc"]',
    "volumes: [./x:/y:rshared]": 'composeKeys: ["volumes.bind.propagation=rshared"]',
    "volumes: [{type: bind, source: /etc, target: /h, read_only: true, bind: {recursive: writable}}]": (
        'hostPaths: ["/etc"]'
    ),
    "volumes: [{type: bind, source: /etc, target: /h, read_only: true, bind: {selinux: Z}}]": 'hostPaths: ["/etc"]',
    'volumes: ["/etc:/h:ro,z"]': 'hostPaths: ["/etc"]',
    "volumes: [/var/run/docker.sock:/var/run/docker.sock]": "engineSocket: true",
    "volumes: [/run:/host-run:ro]": "engineSocket: true",
    "volumes: [/run/containerd/containerd.sock:/c.sock]": "engineSocket: true",
    "volumes: [{type: npipe, source: x, target: y}]": 'composeKeys: ["volumes.type=npipe"]',
    "use_api_socket: true": "engineSocket: true",
    'volumes_from: ["container:agent"]': 'composeKeys: ["volumes_from=container:agent"]',
    "security_opt: [seccomp=unconfined]": 'composeKeys: ["security_opt=seccomp=unconfined"]',
    'security_opt: ["label:disable"]': 'composeKeys: ["security_opt=label:disable"]',
    "sysctls: {kernel.core_pattern: x}": 'composeKeys: ["sysctls=kernel.core_pattern"]',
    "sysctls: [vm.overcommit_memory=1]": 'composeKeys: ["sysctls=vm.overcommit_memory"]',
    "sysctls: {net/../kernel/core_pattern: x}": 'composeKeys: ["sysctls=net/../kernel/core_pattern"]',
    "runtime: nvidia": 'composeKeys: ["runtime=nvidia"]',
    "isolation: process": 'composeKeys: ["isolation=process"]',
    "credential_spec: {file: x.json}": 'composeKeys: ["credential_spec"]',
    "storage_opt: {size: 1G}": 'composeKeys: ["storage_opt"]',
    "build: {context: /etc}": 'composeKeys: ["build"]',
    "build: .": 'composeKeys: ["build=."]',
    "provider: {type: model}": 'composeKeys: ["provider"]',
    "models: [m]": 'composeKeys: ["models"]',
    "annotations: {org.systemd.property.ExecStopPost: x}": 'composeKeys: ["annotations"]',
    "external_links: [agent]": 'composeKeys: ["external_links"]',
    "oom_score_adj: -1000": 'composeKeys: ["oom_score_adj=-1000"]',
    "oom_kill_disable: true": 'composeKeys: ["oom_kill_disable=true"]',
    "logging: {driver: syslog, options: {syslog-address: unix:///x}}": 'composeKeys: ["logging.driver=syslog"]',
    "logging: {driver: json-file, options: {path: /etc/x}}": 'composeKeys: ["logging.options.path=/etc/x"]',
    "x-podman: {pod_args: x}": 'composeKeys: ["x-podman"]',
    "not_known_yet: 1": 'composeKeys: ["not_known_yet=1"]',
    "networks: {default: {driver_opts: {x: y}}}": 'composeKeys: ["networks.attachment.driver_opts"]',
}

FILE = {
    # what the rest of the file says
    "volumes: {v: {driver: local, driver_opts: {type: none, o: bind, device: /}}}": 'hostPaths: ["/"]',
    "volumes: {v: {driver_opts: {type: none, o: 'rbind,ro', device: /etc}}}": 'hostPaths: ["/etc:ro"]',
    "volumes: {v: {driver_opts: {type: ext4, device: /dev/sda1}}}": 'composeKeys: ["volumes.driver_opts=ext4"]',
    "volumes: {v: {driver_opts: {type: overlay, device: overlay, o: 'lowerdir=/,upperdir=/a,workdir=/b'}}}": (
        'composeKeys: ["volumes.driver_opts=overlay"]'
    ),
    "volumes: {v: {driver_opts: {type: tmpfs, device: tmpfs, o: bind}}}": 'composeKeys: ["volumes.driver_opts=tmpfs"]',
    "volumes: {v: {driver: rexray}}": 'composeKeys: ["volumes.driver=rexray"]',
    "volumes: {v: {external: true, name: portainer_data}}": 'composeKeys: ["volumes.name=portainer_data"]',
    "volumes: {v: {external: true}}": 'composeKeys: ["volumes.name=v"]',
    "volumes: {v: {name: portainer_data}}": 'composeKeys: ["volumes.name=portainer_data"]',
    "volumes: {v: {name: /}}": 'hostPaths: ["/"]',
    "networks: {n: {external: true, name: host}}": "hostNetwork: true",
    "networks: {host: {external: true}}": "hostNetwork: true",
    "networks: {n: {driver: host}}": "hostNetwork: true",
    "networks: {n: {external: true, name: plant}}": 'composeKeys: ["networks.name=plant"]',
    "networks: {n: {driver: macvlan}}": 'composeKeys: ["networks.driver=macvlan"]',
    "networks: {n: {driver_opts: {com.docker.network.bridge.name: br0}}}": (
        'composeKeys: ["networks.driver_opts.com.docker.network.bridge.name=br0"]'
    ),
    # the device would send the packets of half the world, or of the plant, to the workload
    "networks: {n: {ipam: {config: [{subnet: 0.0.0.0/1}]}}}": 'composeKeys: ["networks.ipam.config.subnet=0.0.0.0/1"]',
    "networks: {n: {ipam: {config: [{subnet: 10.1.0.0/24}]}}}": (
        'composeKeys: ["networks.ipam.config.subnet=10.1.0.0/24"]'
    ),
    "networks: {n: {ipam: {config: [{subnet: 172.16.0.0/12}]}}}": (
        'composeKeys: ["networks.ipam.config.subnet=172.16.0.0/12"]'
    ),
    "networks: {n: {ipam: {config: [{subnet: '::/1'}]}}}": 'composeKeys: ["networks.ipam.config.subnet=::/1"]',
    "networks: {n: {ipam: {config: [{subnet: x}]}}}": 'composeKeys: ["networks.ipam.config.subnet=x"]',
    "networks: {n: {ipam: {driver: dhcp}}}": 'composeKeys: ["networks.ipam.driver=dhcp"]',
    "secrets: {s: {file: /etc/shadow}}": 'hostPaths: ["/etc/shadow:ro"]',
    "configs: {c: {file: ../../etc/shadow}}": 'hostPaths: ["../../etc/shadow:ro"]',
    "secrets: {s: {external: true}}": 'composeKeys: ["secrets.external=true"]',
    "models: {m: {model: ai/x}}": 'composeKeys: ["models"]',
    "jobs: {j: {image: x}}": 'composeKeys: ["jobs"]',
}

HARMLESS = """
x-common: &common {restart: always, logging: {driver: json-file, options: {max-size: 10m, mode: non-blocking}}}
services:
  web:
    <<: *common
    image: registry.example.com/acme/hmi:1.4.2
    ports: ["8080:80", "127.0.0.1:1883:1883/tcp", "[::1]:81:81", "9000", {target: 502, published: "502"}]
    volumes: ["data:/data", "./conf:/etc/app:ro", "/anonymous", {type: tmpfs, target: /t, tmpfs: {size: 1000}}]
    tmpfs: [/run]
    cap_drop: [ALL]
    cap_add: [NET_BIND_SERVICE, CHOWN]
    security_opt: ["no-new-privileges:true"]
    sysctls: {net.core.somaxconn: 1024}
    networks: {plant: {aliases: [web], ipv4_address: 172.30.0.2}}
    healthcheck: {test: [CMD, wget, -q, localhost]}
    deploy: {resources: {limits: {cpus: "0.5", memory: 64M}, reservations: {memory: 16M}}, replicas: 1}
    secrets: [token]
    configs: [{source: app, target: /app.ini}]
    environment: {A: b}
    labels: {a: b}
    user: "1000"
    ulimits: {nofile: 1000}
    init: true
    x-note: for people
  db:
    image: docker.io/library/busybox:1.36
    network_mode: "service:web"
    depends_on: {web: {condition: service_healthy}}
    pid: "service:web"
    ipc: shareable
    volumes_from: ["web:ro"]
    post_start: [{command: [chown, -R, "1000", /data], user: root}]
    profiles: [debug]
volumes:
  data: {driver: local, labels: {a: b}}
  scratch: {driver_opts: {type: tmpfs, device: tmpfs, o: "size=100m,uid=1000,noexec"}}
networks: {plant: {driver: bridge, ipam: {config: [{subnet: 172.30.0.0/24}, {subnet: "fd01::/64"}]}, internal: true}}
secrets: {token: {environment: TOKEN}}
configs: {app: {file: ./app.ini}}
"""

READS = {
    # a compose file that lets Compose read something on the device: the line that would allow it; empty: none does
    "services: {web: {image: a, env_file: /etc/environment}}": 'hostPaths: ["/etc/environment:ro"]',
    "services: {web: {image: a, env_file: [{path: ../../etc/secret.env, required: false}]}}": "hostPaths",
    'services: {web: {image: a, env_file: "${WHERE}/x.env"}}': 'composeKeys: ["env_file=${WHERE}/x.env"]',
    "services: {web: {image: a, label_file: [/proc/1/environ]}}": 'hostPaths: ["/proc/1/environ:ro"]',
    "services: {web: {extends: {file: /opt/other/compose.yaml, service: db}}}": (
        'composeKeys: ["extends=/opt/other/compose.yaml"]'
    ),
    "services: {web: {extends: {file: ../other/compose.yaml, service: db}}}": 'composeKeys: ["extends=',
    "include: [/opt/other/compose.yaml]": 'composeKeys: ["include=/opt/other/compose.yaml"]',
    "include: [{path: sub/inner.yaml, env_file: /etc/secret.env}]": 'hostPaths: ["/etc/secret.env:ro"]',
    "include: [{path: sub/inner.yaml, project_directory: /etc}]": 'composeKeys: ["include=/etc"]',
    "include: [{path: [sub/inner.yaml, ../../x.yaml]}]": 'composeKeys: ["include=../../x.yaml"]',
    "include: [oci://registry.example.com/evil/app:1]": 'composeKeys: ["include=oci://registry.example.com/evil/app:1"]',
    "include: [https://github.com/evil/repo.git]": 'composeKeys: ["include=https://github.com/evil/repo.git"]',
    "include: [github.com/evil/repo]": 'composeKeys: ["include=github.com/evil/repo"]',
    "include: [sub/hidden.yaml]": 'hostPaths: ["/etc/shadow:ro"]',
    "include: [{path: sub/up.yaml, project_directory: .}]": 'hostPaths: ["../secret.env:ro"]',
    "x: &e {env_file: /etc/environment}\nservices: {web: {<<: *e, image: a}}": 'hostPaths: ["/etc/environment:ro"]',
}
