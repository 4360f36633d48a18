# From a clone: brew install --HEAD ./packaging/homebrew/reconciler.rb
class Reconciler < Formula
  include Language::Python::Virtualenv

  desc "Keeps language models loaded on a Mac as declared, with MLX"
  license "Apache-2.0"
  head "file://#{File.expand_path("../..", __dir__)}", using: :git, branch: "main"

  depends_on arch: :arm64
  depends_on :macos
  depends_on "python@3.12"

  def install
    virtualenv_create(libexec, "python3.12", without_pip: false)
    system libexec/"bin/pip", "install", "--constraint", "constraints.txt", "."
    bin.install_symlink libexec/"bin/reconciler"
    generate_completions_from_executable(bin/"reconciler", "completion")
  end

  service do
    run [opt_bin/"reconciler", "serve"]
    keep_alive successful_exit: false
    process_type :interactive
    log_path var/"log/reconciler.log"
    error_log_path var/"log/reconciler.log"
  end

  test do
    assert_match "reconciler", shell_output("#{bin}/reconciler version")
  end
end
