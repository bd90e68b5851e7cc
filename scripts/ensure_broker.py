"""Make sure that this machine can run a RabbitMQ: ensure_broker.py [--or-docker].

An installed rabbitmq-server will do, and with --or-docker a Docker engine as well. As root on a
system with apt-get the package is installed. Elsewhere one line says what to type; exit code 2.
"""

import os
import shutil
import subprocess
import sys

#: Which package manager has it under which name.
PACKAGES = {
    "apt-get": "sudo apt-get install rabbitmq-server",
    "dnf": "sudo dnf install rabbitmq-server",
    "zypper": "sudo zypper install rabbitmq-server",
    "pacman": "sudo pacman -S rabbitmq",
    "brew": "brew install rabbitmq",
}
#: Where packages put it that leave it out of an ordinary user's PATH.
FOLDERS = ["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin", "/usr/lib/rabbitmq/bin"]


def has_server() -> bool:
    path = os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS])
    return shutil.which("rabbitmq-server", path=path) is not None


def has_engine() -> bool:
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


def install() -> None:
    """Install Debian's package, without starting the broker that it brings as a service."""
    print("[broker] no rabbitmq-server here: installing it with apt-get (about 40 MB)", flush=True)
    # Packages ask invoke-rc.d to start their services, and that looks at the run level.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for step in (["update"], ["install", "-y", "--no-install-recommends", "rabbitmq-server"]):
        subprocess.run(["apt-get", "-qq", *step], env=quiet, check=False)


def main(or_docker: bool) -> None:
    if has_server() or (or_docker and has_engine()):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        install()
    if has_server():
        return
    known = [command for manager, command in PACKAGES.items() if shutil.which(manager)]
    what = "neither rabbitmq-server nor a Docker engine" if or_docker else "no rabbitmq-server"
    print(f"{what} on this machine: {known[0] if known else 'install RabbitMQ'}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main(or_docker="--or-docker" in sys.argv[1:])
