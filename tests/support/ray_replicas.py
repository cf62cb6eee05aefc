"""A Ray of this machine alone with the replicas of examples/ray_serve.py, as a process that is told whom to end.

    python ray_replicas.py PORT FOLDER SETTING=VALUE...

Says "ready" once they serve. Then, for each line that it reads: "kill REPLICA" ends one, "metrics BODY" writes the
figures of the replica that requests with that body go to, as JSON. It ends with its input.
"""

import json
import sys
from pathlib import Path

import ray
from ray import serve

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import ray_serve

ray.cloudpickle.register_pickle_by_value(ray_serve)


def metrics(body: bytes) -> str:
    handle = serve.get_deployment_handle("Replica", "default").options(stream=True, method_name="answer")
    scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/metrics", "query_string": b""}
    scope |= {"headers": [(b"host", b"localhost")], "http_version": "1.1"}
    messages = handle.options(session_id=ray_serve.conversation(body)).remote(scope, b"")
    return b"".join(message.get("body", b"") for message in messages).decode()


def main() -> None:
    port, folder, *settings = sys.argv[1:]
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 << 20,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=folder,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(ray_serve.build(dict(setting.split("=", 1) for setting in settings)))
    print("ready", flush=True)
    for line in sys.stdin:
        what, _, rest = line.strip().partition(" ")
        if what == "kill":
            (name,) = [each["name"] for each in ray.util.list_named_actors(True) if each["name"].endswith(rest)]
            ray.kill(ray.get_actor(name, namespace="serve"))
            print("killed", flush=True)
        else:
            print(json.dumps(metrics(rest.encode())), flush=True)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
