"""What every backend must do, one folder a demand; and the tests of this project itself, in ``meta``."""
