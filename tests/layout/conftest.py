"""What these tests share stands in `ranks`, beside them."""
